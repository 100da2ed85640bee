"""Loads the checkpoints and population members of runs as frozen policies."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from selfplay import digests
from selfplay.building import make
from selfplay.core import Game, Policy, SelfplayError
from selfplay.runs.folder import RunFolder, difference
from selfplay.runs.trust import check_targets

BASE = "base"
NEEDED = ("game", "player", "seats", "players", "reward", "quality", "probes")
DAMAGED = "delete its folder to play without it"
STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Choice:
    """Selects policies of a run.

    Attributes:
        every: take the checkpoints whose step is a multiple of this, and the last one; 1 takes all.
        last: take only the last checkpoint.
        base: also take the learner before training.
        population: also take the members of the run's population, if it has one.
    """

    every: int = 1
    last: bool = False
    base: bool = True
    population: bool = False


def trusted_run(path: Path | str, trusted: Sequence[str]) -> RunFolder:
    """Open a run and check that its config may be instantiated; see `selfplay.runs.trust`.

    Args:
        trusted: packages trusted in addition to selfplay and torch.optim.

    Raises:
        SelfplayError: there is no run, or its config calls something that is not trusted.
    """
    run = RunFolder.open(path)
    check_targets(run.config, Path(path, "config.yaml"), trusted)
    return run


def run_folders(paths: Sequence[Path], trusted: Sequence[str]) -> list[RunFolder]:
    """Open the runs at the paths, without duplicates; a folder that is not a run stands for the runs directly in it.

    Raises:
        SelfplayError: there is no run at a path, a config.yaml is not that of a run, or it calls something untrusted.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        for folder in runs_below(path) or [path]:
            run = trusted_run(folder, trusted)
            missing = [key for key in NEEDED if key not in run.config]
            if missing:
                raise SelfplayError(
                    f"{folder}/config.yaml has no '{missing[0]}', so it is not the config of a run; give a run's folder"
                )
            found.setdefault(folder.resolve(), run)
    return list(found.values())


def runs_below(path: Path) -> list[Path]:
    """The run folders directly in a folder that is not itself a run, in numerical order."""
    if not path.is_dir() or (path / "config.yaml").is_file():
        return []
    runs = [folder for folder in path.iterdir() if (folder / "config.yaml").is_file()]
    return sorted(runs, key=lambda folder: (not folder.name.isdigit(), len(folder.name), folder.name))


def short_names(runs: Sequence[RunFolder]) -> list[str]:
    """The runs' paths relative to their common parent; the empty string for a single run."""
    if len(runs) == 1:
        return [""]
    paths = [run.path.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(common).as_posix() for path in paths]


def check_same_game(runs: Sequence[RunFolder], games: Sequence[Game]) -> None:
    """Raise SelfplayError, naming a difference, unless all runs play the same game with the same seats.

    Configs may differ in values that the game ignores, such as the seed of an unused random matrix: games of the same
    class with equal attributes are the same.
    """
    first = runs[0]
    for run, game in zip(runs[1:], games[1:], strict=True):
        found = difference(first.config.game, run.config.game, "game")
        if found and not (type(game) is type(games[0]) and vars(game) == vars(games[0])):
            raise SelfplayError(_different(first, run, found))
        found = difference(first.config.seats, run.config.seats, "seats")
        if found:
            raise SelfplayError(_different(first, run, found))


def _different(first: RunFolder, other: RunFolder, found: tuple[str, object, object]) -> str:
    key, here, there = found
    return (
        f"{first.path} and {other.path} play different games ({key} is {here} in the first, {there} in the second); "
        "give runs of the same game"
    )


def policies(run: RunFolder, name: str, choice: Choice) -> tuple[Policy, dict[str, Policy]]:
    """Return the run's initial learner, and the chosen policies by name in the order of their steps; all are frozen.

    Args:
        name: of the run, used as a prefix of the policies' names; "" for no prefix.

    Raises:
        SelfplayError: the run has no checkpoint, or a chosen one is broken.
    """
    learner: Policy = make(run.config.player, "player")
    base = learner.snapshot()
    prefix = f"{name}/" if name else ""
    found = {prefix + BASE: base} if choice.base else {}
    for label, folder in _chosen(run, choice).items():
        digests.check(folder, DAMAGED)
        learner.load(folder)
        found[prefix + label] = learner.snapshot()
    return base, found


def last_policy(run: RunFolder, changes: Mapping[str, object]) -> Policy:
    """Load the policy of a run's last checkpoint.

    Args:
        changes: overrides of the player's config that leave its weights unchanged, such as "device" or "batch_size".

    Raises:
        SelfplayError: the run has no checkpoint, or the last one is broken.
    """
    learner: Policy = make(OmegaConf.merge(run.config.player, changes), "player")
    folder = last_checkpoint(run)
    digests.check(folder, DAMAGED)
    learner.load(folder)
    return learner


def last_checkpoint(run: RunFolder) -> Path:
    """The folder of a run's last checkpoint.

    Raises:
        SelfplayError: the run has no checkpoint.
    """
    [folder] = _chosen(run, Choice(last=True)).values()
    return folder


def _chosen(run: RunFolder, choice: Choice) -> Mapping[str, Path]:
    """The folders to load, by name. A checkpoint that is also a member of the population is taken once."""
    steps = {int(m[1]): p for p in run.checkpoints.glob("step-*") if (m := STEP.fullmatch(p.name)) and p.is_dir()}
    if not steps:
        raise SelfplayError(f"{run.path} has no checkpoint; give a run that has saved one")
    last = max(steps)
    kept = [last] if choice.last else [step for step in sorted(steps) if step % choice.every == 0 or step == last]
    found = {steps[step].name: steps[step] for step in kept}
    if choice.population and run.population.is_dir():
        members = [path for path in run.population.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(members, key=lambda path: path.name.rpartition("-")[2]):
            if path.name not in found:
                found[f"population/{path.name}"] = path
    return found
