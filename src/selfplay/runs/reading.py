"""One run's folder, read whatever state it is in: what it was, how it ended, and if it did not end well, why."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from selfplay.commandline import program
from selfplay.core import SelfplayError
from selfplay.files import lines
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
    """What a run's folder says.

    Attributes:
        path: the folder.
        status: "finished", "running" (no end was written: at work, or killed), "interrupted" (by a signal), "failed"
            (it said why), "missing" (planned by a sweep, nothing there), "broken" (a file is missing or unreadable).
        reason: why it is not finished, and the remedy; "" for a finished run.
        overrides: key -> override as it was written, in the order of the command line.
        seed: None where the config cannot be read.
        summary: what summary.json says.
        metrics: the lines of metrics.jsonl.
        transcript: whether episodes.jsonl is there, and whole but for a torn last line.
    """

    path: Path
    status: str
    reason: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    transcript: bool = False

    @property
    def setting(self) -> str:
        """The overrides that change the science, the seed left out; "default" where there are none."""
        said = [text for key, text in self.overrides.items() if not _matches(key, NOT_SCIENCE)]
        return " ".join(said) or ("unknown" if self.status == "broken" and not self.overrides else "default")

    @property
    def steps(self) -> int:
        """The last step in its records."""
        return max((line["step"] for line in self.metrics), default=0)


def keyed(overrides: Iterable[str]) -> dict[str, str]:
    """Key -> override as it was written; where a key is said twice, the last counts."""
    return {override.partition("=")[0].lstrip("+~"): override for override in overrides}


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run, even a broken one."""
    return any((folder / name).is_file() for name in FILES)


def read(path: Path) -> Run:
    """The run in a folder. What is broken is told by its status and reason, never raised."""
    broken: list[str] = []
    config = _tried(broken, lambda: RunFolder.open(path).config)
    metrics = _tried(broken, lambda: _metrics(path)) or []
    summary = _tried(broken, lambda: _summary(path)) or {}
    transcript = _tried(broken, lambda: _whole(path / "episodes.jsonl")) or False
    if not broken and summary["status"] == "finished":
        last = max((line["step"] for line in metrics), default=0)
        if last != summary.get("steps"):
            broken.append(
                f"{path / 'summary.json'} says {summary.get('steps')} steps, but metrics.jsonl ends at step {last}; "
                "restore the file that the run wrote"
            )
    plain: Any = {} if config is None else OmegaConf.to_container(config, resolve=False)
    typed = plain.get("overrides")
    overrides = keyed(filter(lambda x: isinstance(x, str), typed)) if isinstance(typed, list) else {}
    seed, total = (value if type(value := plain.get(key)) is int else None for key in ("seed", "steps"))
    status = "broken" if broken else str(summary["status"])
    reason = "; ".join(broken) or _reason(path, status, summary, metrics, total)
    return Run(path, status, reason, overrides, seed, summary, metrics, transcript)


def numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numeric leaves of a record by their path, "eval/accuracy"; of a pair, an interval, its low and high end."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{name}/")
        elif isinstance(value, int | float):
            flat[name] = float(value)
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
            flat |= {f"{name}/low": float(value[0]), f"{name}/high": float(value[1])}
    return flat


def records(path: Path) -> list[dict[str, Any]]:
    """Every whole line of episodes.jsonl, read at once.

    Raises:
        SelfplayError: a whole line is broken.
    """
    try:
        whole = _without_torn(path)
        read: list[dict[str, Any]] = json.loads(b"[" + whole[:-1].replace(b"\n", b",") + b"]")
        if all(isinstance(record, dict) and type(record.get("step")) is int and record["step"] >= 0 for record in read):
            return read
    except OSError as error:
        raise SelfplayError(f"{path} cannot be read ({error.strerror}); put back what the run wrote") from error
    except (ValueError, RecursionError):
        pass
    return [record for _, record in lines(path)]  # says which line is broken


def _matches(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/", f"{name}@")) for name in names)


def _tried(broken: list[str], reading: Callable[[], T]) -> T | None:
    try:
        return reading()
    except (SelfplayError, OSError) as error:
        broken.append(str(error))
    except RecursionError:
        broken.append("a record is nested too deeply; restore what the run wrote")
    return None


def _metrics(path: Path) -> list[dict[str, Any]]:
    found = RunFolder(path).metrics()
    for line in found:
        numbers(line)  # too deep for a table, too deep for us
    return found


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    if not file.exists():
        raise SelfplayError(f"{path} has no summary.json: it was killed as it began, or the file was removed")
    summary = RunFolder(path).summary
    if summary.get("status") not in ENDS:
        told = str(summary.get("status"))[:40]
        raise SelfplayError(f"{file} says status '{told}', not one of {', '.join(ENDS)}; restore what the run wrote")
    for key, kind in (("optimized", dict), ("eval", dict), ("reason", str)):
        if not isinstance(summary.get(key, kind()), kind):
            raise SelfplayError(f"{file} has {str(summary[key])[:40]} as {key}; restore what the run wrote")
    numbers(summary)
    return summary


def _without_torn(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[: raw.rfind(b"\n") + 1]


def _whole(path: Path) -> bool:
    """Whether the transcript is there; a line that is broken raises.

    A file of a hundred megabytes is not parsed for this: within JSON's strings every quote is escaped, so that a torn
    or overwritten line shows in the counts of where records begin and end. Only a file with other counts is parsed.
    """
    if not path.exists():
        return False
    whole = _without_torn(path)
    counts = {whole.count(b"\n"), whole.count(b'{"step":'), whole.count(b"}\n")}
    if len(counts) > 1 or b"\0" in whole:
        for _ in lines(path):
            pass
    return True


def _reason(
    path: Path, status: str, summary: Mapping[str, Any], metrics: list[dict[str, Any]], total: int | None
) -> str:
    if status == "finished":
        return ""
    if status == "failed":
        return str(summary.get("reason") or "it did not say why")
    last = max((line["step"] for line in metrics), default=0)
    after = f"after step {last}" if total is None else f"after step {last} of {total}"
    resume = f"{program()} resume={path}"
    if status == "interrupted":
        return f"stopped by a signal {after}; go on with: {resume}"
    return f"no end was written {after}: it is at work, or was killed; then go on with: {resume}"
