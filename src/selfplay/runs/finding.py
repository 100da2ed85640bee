"""Finds the runs in folders, and the jobs that a sweep planned but that wrote nothing."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from selfplay.core import SelfplayError
from selfplay.runs.reading import Run, is_run, keyed
from selfplay.runs.sweep_plan import default_seed, planned


def find(folders: Iterable[Path | str], read: Callable[[Path], Run], notes: list[str]) -> dict[str, Run]:
    """The runs in one or more folders by name; each folder is a run, or contains runs at any depth.

    Names are the paths below the common folder, in natural sort order. Jobs that a sweep planned but that wrote nothing
    have the status "missing".

    Args:
        folders: at least one.
        read: reads the run in a folder.
        notes: is extended by warnings about sweeps whose planned jobs are unknown.

    Raises:
        SelfplayError: a folder does not exist, or contains neither a run nor a sweep that planned one.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise SelfplayError(f"{folder} is not a folder; give the folder of a run, or one that holds runs")
        here = {path.resolve(): run for path, run in _runs(folder, read, notes)}
        found |= here
        if not here:
            raise SelfplayError(f"{folder} holds no run; give the folder of a run, or one that holds runs")
    if not found:
        raise SelfplayError("no folder was given; give the folder of a run, or one that holds runs")
    return _named(found)


def _runs(folder: Path, read: Callable[[Path], Run], notes: list[str]) -> Iterator[tuple[Path, Run]]:
    """Every run below a folder, and every job planned by a sweep in it."""
    for here, inner, _ in os.walk(folder):
        path = Path(here)
        if is_run(path):
            inner.clear()
            yield path, read(path)
            continue
        inner[:] = [name for name in inner if not name.startswith(".")]
        try:
            jobs = planned(path) or []
        except SelfplayError as error:
            notes.append(f"jobs of {path} that never started cannot be listed: {error}")
            continue
        for number, overrides in enumerate(jobs):
            job = path / str(number)
            if not is_run(job):
                yield job, _missing(job, keyed(overrides), default_seed(path))


def _missing(job: Path, overrides: dict[str, str], seed: int | None) -> Run:
    given = overrides.get("seed", "").partition("=")[2]
    what = "its folder is empty" if job.is_dir() else "it has no folder"
    reason = f"{what}: the job has not started, or it failed before its first step; start the sweep again"
    return Run(job, "missing", reason, overrides, int(given) if re.fullmatch(r"\d+", given) else seed)


def _named(found: Mapping[Path, Run]) -> dict[str, Run]:
    shared = Path(os.path.commonpath(found)) if len(found) > 1 else next(iter(found)).parent
    named = {path.relative_to(shared).as_posix(): run for path, run in found.items()}
    return dict(sorted(named.items(), key=lambda item: [_natural(part) for part in item[0].split("/")]))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
