"""How far runs are, read often and cheaply while they go on: files that did not change are not read again."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from selfplay.measures import numbers
from selfplay.runs.finding import find
from selfplay.runs.reading import FILES, Run, read

RECENT = 20  # steps from which the time of a step is estimated
QUIET, SLOW = 60.0, 10.0  # a run is stalled after so many seconds, and so many times its slowest recent step
STARTING = 600.0  # seconds in which a run has no metrics yet, and in which a sweep starts its next job
GOES_ON = ("running", "waiting")
Signature = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        run: its records, without the transcript.
        state: its status, but "stalled" for a run that has no recorded end and has not written for long (it was killed,
            or hangs), and "waiting" for a job that a sweep in progress has not started.
        values: the metric that the run optimizes, at the steps that logged it.
        left: the seconds that it still needs, judging by its last steps; None if that is unknown.
    """

    run: Run
    state: str
    values: list[float]
    left: float | None

    @property
    def goes_on(self) -> bool:
        """Whether the run will change."""
        return self.state in GOES_ON


def standings(folders: Iterable[Path | str]) -> dict[str, Standing]:
    """The runs in the folders by name, as `find` names and orders them.

    Raises:
        SelfplayError: see `find`.
    """
    now, found = time.time(), find(folders, _current, [])
    ages = {name: now - max(_times(run.path), default=0.0) for name, run in found.items()}
    active = {run.path.parent for name, run in found.items() if ages[name] < STARTING}
    return {name: _standing(run, ages[name], run.path.parent in active) for name, run in found.items()}


def _standing(run: Run, age: float, active: bool) -> Standing:
    state, seconds = run.status, [_seconds(line) for line in run.metrics[-RECENT:]]
    if state == "missing":
        state = "waiting" if active else "missing"
    elif state == "running" or (state == "broken" and not (run.path / "summary.json").exists()):
        patience = max(QUIET, SLOW * max(seconds)) if seconds else STARTING
        state = "running" if age < patience else "stalled" if state == "running" else state
    values = [flat[run.optimized] for line in run.metrics if run.optimized in (flat := numbers(line))]
    steps = [_seconds(line) for line in run.metrics[-RECENT:] if line["step"] > 0]
    known = state == "running" and steps and run.total is not None
    return Standing(run, state, values, fmean(steps) * (run.total - run.steps) if known else None)  # type: ignore[operator]


def _seconds(line: dict[str, object]) -> float:
    return sum(value for key, value in numbers(line).items() if key.startswith("time/"))


def _times(path: Path) -> Iterator[float]:
    """When the files of a run were written."""
    for size, changed in _signature(path):
        if size >= 0:
            yield changed / 1e9


def _signature(path: Path) -> Signature:
    """Size and time of each file of a run; a size of -1 for one that is missing."""
    found = []
    for name in FILES:
        try:
            stat = (path / name).stat()
            found.append((stat.st_size, stat.st_mtime_ns))
        except OSError:
            found.append((-1, 0))
    return tuple(found)


def _current(path: Path) -> Run:
    return _read(path, _signature(path))


@lru_cache(maxsize=4096)
def _read(path: Path, signature: Signature) -> Run:
    return read(path, transcripts=False)
