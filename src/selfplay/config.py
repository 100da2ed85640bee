"""Check a whole config: the options of the run itself and those of every part (`selfplay.signature`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfplay.core import Episode, Game, Player, Policy, Referee, SelfplayError, Update
from selfplay.loggers.logger import Logger
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.options import Count, Device, Name, OneOf, Period, Seed, Steps, Whole
from selfplay.parallel.processes import Processes
from selfplay.signature import IMPORTING, Walk
from selfplay.targets import parameters_of

PAID = ("reward", "quality")  # scores that games may pay, so no probe may use these names


class Checkpoints(TypedDict):
    """When checkpoints are written and deleted; see conf/config.yaml."""

    every: Period
    keep: Whole
    keep_every: Steps | None


class Stop(TypedDict):
    """When a run ends early; see conf/config.yaml."""

    metric: Name | None
    patience: Count
    goal: Annotated[str, OneOf("max", "min")]
    above: Mapping[str, float]
    below: Mapping[str, float]
    window: Count


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
    "stop": Stop,
    "seats": Mapping[str, str | None],  # None: see `selfplay.derived`
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
    "parallel": Processes | None,
}
LAST: dict[str, tuple[type, tuple[str, ...]]] = {  # parts built last, and the arguments they get from the others
    "update": (Update, ("policy", "reference", "roles")),
    "opponent": (Matchmaker, ("seated", "players", "game", "referees")),
}

LEARNERS = "learners"


def check_entry(cfg: DictConfig, key: str) -> None:
    """Raise SelfplayError unless the run's own option `key` is valid."""
    walk = Walk()
    value, where = walk.value(cfg, key, key)
    walk.check(value, OPTIONS[key], where)


def check_config(cfg: DictConfig) -> set[str]:
    """Validate every option that a run reads, without instantiating anything.

    Returns:
        The dotted keys that interpolations refer to.

    Raises:
        SelfplayError: an option is invalid; the message names the first one.
    """
    walk = Walk()
    for key, hint in OPTIONS.items():
        value, where = walk.value(cfg, key, key)
        walk.check(value, hint, where)
    _check_taught(cfg["update"])
    for key, (kind, given) in LAST.items():
        value, where = walk.value(cfg, key, key)
        walk.check_partial(value, kind, given, where)
    for name, node in (OmegaConf.select(cfg, LEARNERS) or {}).items():
        for key in node if OmegaConf.is_config(node) else ():
            value, where = walk.value(node, key, f"{LEARNERS}.{name}.{key}")
            if "_target_" in value and key == "player":  # without, it is completed by `selfplay.derived`
                walk.check(value, Policy, where)
            elif "_target_" in value:
                walk.check_partial(value, *LAST["update"], where)
    for name in PAID:
        if name in cfg.probes:
            raise SelfplayError(
                f"probes.{name} would replace the {name} that the game pays; rename the probe, or select the "
                f"{name} itself with {name}=<name>"
            )
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{error.full_key} cannot be resolved ({reason}); give it a value, or remove it") from error
    return walk.read


def _check_taught(update: object) -> None:
    """Raise SelfplayError if the learner is to learn from teachers, and the update's class cannot."""
    if not isinstance(update, DictConfig) or not OmegaConf.is_list(teachers := OmegaConf.select(update, "teachers")):
        return
    try:
        target = get_object(update["_target_"])
    except (LookupError, *IMPORTING):
        return  # the walk names it
    options = parameters_of(target) or {}
    if teachers and "teachers" not in options and not any(p.kind is p.VAR_KEYWORD for p in options.values()):
        raise SelfplayError(
            f"update.teachers is {list(teachers)}, so their replies are to be learnt, but {target.__name__} learns "
            "only the learner's own; choose an update that learns from teachers, such as update=dpo, ipo, kto_pair or "
            "rejection, or a game without teachers"
        )
