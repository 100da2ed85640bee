"""How a run starts: as a new run, resumed with `resume=`, or as a job of a restarted sweep."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from selfplay import interrupts
from selfplay.building import make
from selfplay.commandline import as_typed
from selfplay.config import check_config, check_entry
from selfplay.console import say
from selfplay.core import SelfplayError
from selfplay.derived import fill_in
from selfplay.effect import check_effect, take_away
from selfplay.memory.sizes import settle, take_auto
from selfplay.renamed import refused_in
from selfplay.runs.claim import Claim
from selfplay.runs.early_stop import EarlyStop
from selfplay.runs.folder import RunFolder, difference, resolved
from selfplay.runs.trust import check_targets, trusted_of

SERVERS = {  # a part that uses servers -> its class, and its options that say where they are and how they are used
    "engine": (
        "selfplay.engines.server.engine.ServerEngine",
        ("urls", "folder", "transfer", "adapters", "requests", "seconds"),
    ),
    "reward": (
        "selfplay.referees.served_reward_model.ServedRewardModel",
        ("url", "model", "key", "batch_size", "parallel", "timeout"),
    ),
}
OF_SERVERS = {f"{part}.{name}": kind for part, (kind, names) in SERVERS.items() for name in names}
RESUMABLE = (
    "steps",
    "device",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_every",
    "stop.metric",
    "stop.patience",
    "stop.goal",
    "stop.above",
    "stop.below",
    "stop.window",
    "player.batch_size",
    "update.micro_batch",
    *OF_SERVERS,
)
FOLLOWERS: dict[str, tuple[str, ...] | None] = {  # key -> components whose option of that name refers to it; None: all
    "steps": (
        "selfplay.updates.schedules.linear",
        "selfplay.updates.schedules.cosine",
        "selfplay.opponents.league.League",
    ),
    "device": None,  # users' own players and referees, too
    **{key: (kind,) for key, kind in OF_SERVERS.items()},
}
NO_PART = ("resume", "sweep", "trust", "overrides", "parallel")  # keys that do not affect what a run computes
PARTS = (  # required keys of a config
    "game", "task", "player", "seats", "players", "reward", "quality", "probes", "regularizer", "schedule", "update",
    "opponent", "rollout", "eval", "extra_evals", "logger", "checkpoint",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """A run that is ready to start.

    Args:
        cfg: the effective config.
        folder: the run's folder.
        goes_on: whether the folder already contains this run.
        result: the optimised metric, if an earlier start of the sweep finished the run.
    """

    cfg: DictConfig
    folder: Path
    goes_on: bool
    result: float | None = None


@contextmanager
def prepared(cfg: DictConfig) -> Iterator[Start]:
    """Turn the composed config into the effective one, and lock the run's folder for the duration of the block.

    Raises:
        SelfplayError: there is no run to resume, a resumed run cannot take an override, the config is invalid, a single
            run was given a sweep's name, a job's folder contains a run with another config, or another process is
            using the folder.
    """
    if interrupts.is_patient() and (number := interrupts.asked()) is not None:
        raise interrupts.Stopped(number)  # do not start a launcher's next job after a stop signal
    job = HydraConfig.get()
    overrides = overrides_of(job)
    check_entry(cfg, "resume")
    check_entry(cfg, "sweep")
    if cfg.resume is not None:
        folder = RunFolder.open(cfg.resume)
        with _claimed(folder):
            yield Start(_resumed(cfg, folder, overrides), folder.path, goes_on=True)
        return
    with open_dict(cfg):
        cfg.overrides = overrides
        take_away(cfg, job.runtime.choices)
    if refusal := refused_in(cfg):
        raise SelfplayError(refusal)
    for key in ("game", "seats", "players", "probes", "progress_metric", "optimized_metric"):
        check_entry(cfg, key)
    sizes = take_auto(cfg)
    fill_in(cfg, make(cfg.game, "game"))
    read = check_config(cfg)
    check_effect(cfg, overrides, read)
    if cfg.steps == 0 and cfg.eval is None:
        raise SelfplayError("steps is 0 and eval is none, so there is nothing to do; give steps, or choose an eval")
    sweeps = job.mode == RunMode.MULTIRUN
    if cfg.sweep is not None and not sweeps:
        raise SelfplayError(f"sweep is '{cfg.sweep}', but this is a single run; add -m to sweep, or leave it out")
    folder = RunFolder(Path(job.runtime.output_dir))
    with _claimed(folder):
        again = sweeps and folder.holds_run
        settle(cfg, sizes, folder.config if again and not _may_restart(folder) else None)
        yield _again(cfg, folder) if again else Start(cfg, folder.path, goes_on=False)


@contextmanager
def _claimed(folder: RunFolder) -> Iterator[None]:
    with Claim(folder.path) as claim, interrupts.leaving(claim.close):
        yield


def overrides_of(job: DictConfig) -> list[str]:
    """The overrides of a job as typed; `job` is the `hydra` node of its config."""
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return as_typed(overrides)


def _resumed(cfg: DictConfig, folder: RunFolder, overrides: list[str]) -> DictConfig:
    """The config of the run in the folder, with the permitted changes applied from `cfg`."""
    config = folder.config
    check_targets(config, folder.path / "config.yaml", trusted_of(cfg.trust))
    if lacking := [key for key in PARTS if key not in config]:
        raise SelfplayError(
            f"the run in {folder.path} has no '{lacking[0]}' in its config.yaml, so an earlier version of selfplay "
            "made it; resume it with that version (its commit is under versions), or start a new run"
        )
    config.stop = {**asdict(EarlyStop()), **(OmegaConf.select(config, "stop") or {})}  # an earlier version's lacks some
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key in ("resume", "trust", "parallel") or _is_own(config, cfg, key):
            continue
        if key not in RESUMABLE or not _uses(config, key):
            may = ", ".join(name for name in RESUMABLE if name not in OF_SERVERS)
            raise SelfplayError(
                f"a resumed run keeps its config, but '{override}' would change it; drop it (only {may} and "
                "where the servers of engine=server and reward=rm_server are may change), or start a new run"
            )
        _change(config, key, cfg)
    for key, kind in (("seats", DictConfig), ("checkpoint", DictConfig), ("overrides", ListConfig)):
        value = OmegaConf.select(config, key)
        if not isinstance(value, kind):
            raise SelfplayError(f"{key} is {value} in {folder.path}/config.yaml; restore what the run wrote")
    config.resume = str(cfg.resume)
    config.parallel = cfg.parallel  # the number of processes may change
    config.overrides = [*config.overrides, *overrides]
    sizes = take_auto(config)
    check_config(config)
    settle(config, sizes)
    return config


def _again(cfg: DictConfig, folder: RunFolder) -> Start:
    """A sweep's job whose folder already contains a run: finished, or to be resumed if the configs are equal.

    Resolved configs are compared without the keys in NO_PART and RESUMABLE. A run that has recorded no training step
    may restart with any config.
    """
    if _may_restart(folder):
        return Start(cfg, folder.path, goes_on=True)
    there, now = folder.config, resolved(cfg)
    for key in RESUMABLE:
        if _uses(there, key) and _uses(now, key):
            _change(there, key, now)
    for config in (there, now):
        for key in NO_PART:
            config.pop(key, None)
    found = difference(there, now)
    if found:
        key, old, new = found
        raise SelfplayError(
            f"{folder.path} holds a run with another config ({key} is {old} there and {new} now); "
            "give the sweep another folder, or delete that one"
        )
    summary = folder.summary
    enough = summary.get("steps") == cfg.steps or EarlyStop.of(cfg).ended(summary)
    if summary.get("status") == "finished" and enough:
        say(f"{folder.path} is already finished")
        return Start(cfg, folder.path, goes_on=True, result=_result(summary, folder))
    return Start(cfg, folder.path, goes_on=True)


def _may_restart(folder: RunFolder) -> bool:
    return folder.is_blank and folder.summary.get("status") != "finished"


def _result(summary: Mapping[str, Any], folder: RunFolder) -> float:
    """The optimised metric of a finished run."""
    optimized = summary.get("optimized")
    value = optimized.get("value") if isinstance(optimized, dict) else None
    if not isinstance(value, int | float):
        raise SelfplayError(
            f"{folder.path}/summary.json says that the run finished, but has no optimised metric; delete that file to "
            "finish the run again"
        )
    return float(value)


def _change(config: DictConfig, key: str, source: DictConfig) -> None:
    """Copy a key's value from another config, and update the options that referred to it before resolution."""
    old, new = OmegaConf.select(config, key), OmegaConf.select(source, key)
    if old == new:
        return
    if key in FOLLOWERS:
        _move(config, key, old, new)
    OmegaConf.update(config, key, new, merge=False)
    for name in OmegaConf.select(config, "learners") or {}:  # what a further learner took from the first one
        if OmegaConf.select(config, f"learners.{name}.{key}") == old:
            OmegaConf.update(config, f"learners.{name}.{key}", new)


def _move(node: DictConfig, key: str, old: object, new: object) -> None:
    """Update options of the components in FOLLOWERS that referred to `key` when the config was composed.

    The reference is resolved by now, so an option with the old value counts as one.
    """
    for value in node.values():
        if isinstance(value, DictConfig):
            _move(value, key, old, new)
    followers, name = FOLLOWERS[key], key.rpartition(".")[2]
    refers = "_target_" in node and (name in node if followers is None else node["_target_"] in followers)
    if refers and node.get(name) == old:
        node[name] = new


def _is_own(config: DictConfig, cfg: DictConfig, key: str) -> bool:
    """Whether a choice is the run's own, typed again so that options of servers can be.

    Two rewards of one class may differ in their parts, so only the one that has none counts.
    """
    same = key in SERVERS and _kind(config, key) == _kind(cfg, key)
    return same and (key == "engine" or _kind(config, key) == SERVERS[key][0])


def _uses(config: DictConfig, key: str) -> bool:
    """Whether the option applies, as far as it is one of a part that may use servers."""
    return key not in OF_SERVERS or _kind(config, key.partition(".")[0]) == OF_SERVERS[key]


def _kind(config: DictConfig, part: str) -> Any:
    """The class of a part."""
    return OmegaConf.select(config, f"{part}._target_")
