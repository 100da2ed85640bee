"""Reads a run's folder in any state: its overrides and records, how the run ended, and why it did not finish."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from selfplay.commandline import program
from selfplay.core import SelfplayError
from selfplay.files import lines
from selfplay.measures import numbers
from selfplay.runs.folder import RunFolder

T = TypeVar("T")

FILES = ("config.yaml", "summary.json", "metrics.jsonl", "episodes.jsonl")
ENDS = ("finished", "running", "interrupted", "failed")
NOT_SCIENCE = (
    "seed",
    "resume",
    "sweep",
    "device",
    "checkpoint",
    "progress_metric",
    "optimized_metric",
    "logger",
    "hydra",
    "player.batch_size",
    "update.micro_batch",
)


@dataclass(frozen=True)
class Run:
    """A run as recorded in its folder.

    Attributes:
        path: the folder.
        status: "finished", "running" (no end was recorded: still running, or killed), "interrupted" (by a signal),
            "failed" (with a reason), "missing" (planned by a sweep, but absent), "broken" (a file is missing or
            unreadable).
        reason: why the run did not finish, and the remedy; "" for a finished run.
        overrides: key -> override as written, in the order of the command line.
        seed: None if the config cannot be read.
        summary: the content of summary.json.
        metrics: the lines of metrics.jsonl.
        transcript: whether episodes.jsonl exists and is intact, apart from a torn last line.
        recorded: the content of config.yaml, see `RunFolder.recorded`; empty if it cannot be read.
        total: the steps that the run is to have, and `optimized`: the metric that it optimizes; None if unknown.
    """

    path: Path
    status: str
    reason: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    transcript: bool = False
    recorded: Mapping[str, Any] = field(default_factory=dict)
    total: int | None = None
    optimized: str | None = None

    @property
    def setting(self) -> str:
        """The overrides that affect results, without the seed; "default" if there are none."""
        relevant = [text for key, text in self.overrides.items() if not _matches(key, NOT_SCIENCE)]
        return " ".join(relevant) or ("unknown" if self.status == "broken" and not self.overrides else "default")

    @property
    def steps(self) -> int:
        """The last logged step."""
        return max((line["step"] for line in self.metrics), default=0)


def keyed(overrides: Iterable[str]) -> dict[str, str]:
    """Key -> override as written; the last one wins if a key is repeated."""
    return {override.partition("=")[0].lstrip("+~"): override for override in overrides}


def is_run(folder: Path) -> bool:
    """Whether the folder contains a run, even a broken one."""
    return any((folder / name).is_file() for name in FILES)


def read(path: Path, transcripts: bool = True) -> Run:
    """Read the run in a folder. Damage is reported in `status` and `reason`, never raised.

    Args:
        path: the folder.
        transcripts: whether to check episodes.jsonl, by far the largest file.
    """
    broken: list[str] = []
    recorded = _tried(broken, lambda: RunFolder.open(path).recorded) or {}
    metrics = _tried(broken, lambda: _metrics(path)) or []
    summary = _tried(broken, lambda: _summary(path)) or {}
    transcript = transcripts and (_tried(broken, lambda: _whole(path / "episodes.jsonl")) or False)
    if not broken and summary["status"] == "finished":
        last = max((line["step"] for line in metrics), default=0)
        if last != summary.get("steps"):
            broken.append(
                f"{path / 'summary.json'} says {summary.get('steps')} steps, but metrics.jsonl ends at step {last}; "
                "restore the file that the run wrote"
            )
    typed = recorded.get("overrides")
    overrides = keyed(filter(lambda x: isinstance(x, str), typed)) if isinstance(typed, list) else {}
    seed, total = (value if type(value := recorded.get(key)) is int else None for key in ("seed", "steps"))
    status = "broken" if broken else str(summary["status"])
    reason = "; ".join(broken) or _reason(path, status, summary, metrics, total)
    metric = value if isinstance(value := recorded.get("optimized_metric"), str) else None
    return Run(path, status, reason, overrides, seed, summary, metrics, transcript, recorded, total, metric)


def records(path: Path) -> list[dict[str, Any]]:
    """All complete lines of episodes.jsonl, parsed at once.

    Raises:
        SelfplayError: a complete line is broken.
    """
    try:
        complete = _without_torn(path)
        read: list[dict[str, Any]] = json.loads(b"[" + complete[:-1].replace(b"\n", b",") + b"]")
        if all(isinstance(record, dict) and type(record.get("step")) is int and record["step"] >= 0 for record in read):
            return read
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); restore the file that the run wrote") from error
    except (ValueError, RecursionError):
        pass
    return [record for _, record in lines(path)]  # names the broken line


def _matches(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/", f"{name}@")) for name in names)


def _tried(broken: list[str], reading: Callable[[], T]) -> T | None:
    try:
        return reading()
    except (SelfplayError, OSError) as error:
        broken.append(str(error))
    except RecursionError:
        broken.append("a record is nested too deeply; restore the file that the run wrote")
    return None


def _metrics(path: Path) -> list[dict[str, Any]]:
    found = RunFolder(path).metrics()
    for line in found:
        numbers(line)  # raises RecursionError if nested too deeply
    return found


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    if not file.exists():
        raise SelfplayError(f"{path} has no summary.json: the run was killed at its start, or the file was deleted")
    summary = RunFolder(path).summary
    if summary.get("status") not in ENDS:
        status = str(summary.get("status"))[:40]
        raise SelfplayError(f"{file} has status '{status}', not one of {', '.join(ENDS)}; restore what the run wrote")
    for key, kind in (("optimized", dict), ("eval", dict), ("reason", str)):
        if not isinstance(summary.get(key, kind()), kind):
            raise SelfplayError(f"{file} has an invalid {key}, {str(summary[key])[:40]}; restore what the run wrote")
    numbers(summary)
    return summary


def _without_torn(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[: raw.rfind(b"\n") + 1]


def _whole(path: Path) -> bool:
    """Whether the transcript exists; a broken line raises.

    Large files are not parsed for this. JSON escapes quotes within strings, so a torn or overwritten line shows as a
    mismatch between the counts of record starts, record ends and lines. Only files with a mismatch are parsed.
    """
    if not path.exists():
        return False
    complete = _without_torn(path)
    counts = {complete.count(b"\n"), complete.count(b'{"step":'), complete.count(b"}\n")}
    if len(counts) > 1 or b"\0" in complete:
        for _ in lines(path):
            pass
    return True


def _reason(
    path: Path, status: str, summary: Mapping[str, Any], metrics: list[dict[str, Any]], total: int | None
) -> str:
    if status == "finished":
        return ""
    if status == "failed":
        return str(summary.get("reason") or "no reason was recorded")
    last = max((line["step"] for line in metrics), default=0)
    after = f"after step {last}" if total is None else f"after step {last} of {total}"
    resume = f"{program()} resume={path}"
    if status == "interrupted":
        return f"stopped by a signal {after}; resume with: {resume}"
    return f"no end was recorded {after}: the run is in progress or was killed; if killed, resume with: {resume}"
