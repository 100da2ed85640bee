"""Reject overrides that have no effect because no part of the run reads them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from selfplay.config import LAST, LEARNERS, OPTIONS
from selfplay.core import SelfplayError
from selfplay.plain_values import shown

NOTHING = ("none", "null", None)  # choices that mean "no such part"
OPTIONAL = ("reward", "quality", "eval")


def take_away(cfg: DictConfig, choices: Mapping[str, Any]) -> None:
    """Set a part to null if its choice is none, even if an experiment file sets some of its options."""
    for name in OPTIONAL:
        part = OmegaConf.select(cfg, name)
        if choices.get(name) in NOTHING and isinstance(part, DictConfig) and "_target_" not in part:
            cfg[name] = None


def check_effect(cfg: DictConfig, overrides: Sequence[str], read: set[str]) -> None:
    """Raise SelfplayError for the first override that has no effect.

    Args:
        cfg: the composed config.
        overrides: the overrides as typed.
        read: the dotted keys that interpolations refer to, see `selfplay.config.check_config`.
    """
    for override in overrides:
        name, equals, value = override.partition("=")
        group, _, package = name.lstrip("+~").partition("@")
        key = package or group
        if not equals or name.startswith("~") or (group != key and "/" in key):
            continue
        root = key.split(".")[0].split("/")[0]
        if root in (*OPTIONS, *LAST, LEARNERS):
            if value not in NOTHING:
                _check_used(cfg, key)
            if key in ("stop.patience", "stop.goal") and cfg.stop.metric is None and value not in NOTHING:
                raise SelfplayError(f"{key} is set, but stop.metric is null; set stop.metric, or remove it")
            if key == "stop.window" and not (cfg.stop.above or cfg.stop.below):
                raise SelfplayError(f"{key} is set, but no metric has a limit; set stop.above or stop.below")
        elif root in cfg and value not in NOTHING and not _is_read(key, read):
            raise SelfplayError(
                f"'{override}' has no effect, since no part of this run reads {root}{_meant(root, key)}; remove it, "
                "or choose a part that does"
            )


def _is_read(key: str, read: set[str]) -> bool:
    return any(key == there or key.startswith(f"{there}.") or there.startswith(f"{key}.") for there in read)


def _meant(root: str, key: str) -> str:
    near = get_close_matches(root, [*OPTIONS, *LAST, LEARNERS], n=1)
    return f" (did you mean {near[0]}?)" if near else f" ({key})" if key != root else ""


def _check_used(cfg: DictConfig, key: str) -> None:
    """Raise SelfplayError if a constructor declares the option meaningless given the others (`options.applies`)."""
    names = key.split(".")
    for length in range(1, len(names)):
        node = OmegaConf.select(cfg, ".".join(names[:length]))
        if not isinstance(node, DictConfig):
            part = ".".join(names[:length])
            raise SelfplayError(f"{key} is set, but {part} is {shown(node)}; remove it, or choose another {names[0]}")
        if "_target_" not in node:
            continue
        conditions = getattr(get_object(node["_target_"]), "applies", {})
        for name, wanted in conditions.get(names[length], {}).items():
            if node[name] not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                where = ".".join([*names[:length], name])
                meant = " or ".join(map(str, wanted)) if isinstance(wanted, tuple) else shown(wanted)
                raise SelfplayError(
                    f"{key} applies only if {where} is {meant}, but that is {shown(node[name])}; change one of them"
                )
