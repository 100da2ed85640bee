"""A whole config against what a run takes: its own options, and the options of every part (`selfplay.signature`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfplay.core import Episode, Game, Player, Policy, Referee, SelfplayError, Update
from selfplay.loggers.logger import Logger
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.options import Count, Device, Name, Period, Seed, Steps, Whole
from selfplay.signature import Walk

PAID = ("reward", "quality")  # scores that a game may pay, so no probe may write them


class Checkpoints(TypedDict):
    """How often the run is saved; see conf/config.yaml."""

    every: Period
    keep: Whole
    keep_every: Steps | None


OPTIONS: dict[str, Any] = {
    "seed": Seed,
    "steps": Steps,
    "episodes": Count,
    "device": Device,
    "resume": str | None,
    "sweep": str | None,
    "trust": str | Sequence[str] | None,
    "progress_metric": Name | None,  # None: see `selfplay.derived`
    "optimized_metric": Name | None,
    "checkpoint": Checkpoints,
    "seats": Mapping[str, str],
    "game": Game,
    "rollout": Callable[[Game, Matchmaker, int, int, str], list[Episode]],
    "reward": Referee | None,
    "quality": Referee | None,
    "probes": Mapping[str, Referee | None],
    "player": Policy,
    "players": Mapping[str, Player | None],
    "eval": Callable[..., Any] | None,
    "extra_evals": Mapping[str, Callable[..., Any] | None],
    "logger": Mapping[str, Logger | None],
}
LAST: dict[str, tuple[type, tuple[str, ...]]] = {  # parts that are given what was made before them
    "update": (Update, ("policy", "reference", "roles")),
    "opponent": (Matchmaker, ("seated", "players", "game", "referees")),
}


def check_entry(cfg: DictConfig, key: str) -> None:
    """Raise SelfplayError unless one option of the run itself is what it must be."""
    walk = Walk()
    value, where = walk.value(cfg, key, key)
    walk.check(value, OPTIONS[key], where)


def check_config(cfg: DictConfig) -> set[str]:
    """Whether everything that a run reads is what it must be; nothing is made.

    Returns:
        The keys, with dots, that interpolations have led to: what stands beside the parts and is read.

    Raises:
        SelfplayError: the first fault, by its key.
    """
    walk = Walk()
    for key, hint in OPTIONS.items():
        value, where = walk.value(cfg, key, key)
        walk.check(value, hint, where)
    for key, (kind, given) in LAST.items():
        value, where = walk.value(cfg, key, key)
        walk.check_partial(value, kind, given, where)
    for name in PAID:
        if name in cfg.probes:
            raise SelfplayError(
                f"probes.{name} would take the place of the {name} that is paid; give the probe another name, or "
                f"choose what is paid with {name}=<name>"
            )
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{error.full_key} leads nowhere ({reason}); give it a value, or take it away") from error
    return walk.read
