"""The interface of loggers, and helper functions that they share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError
from selfplay.loggers.turns import Row


class Logger(ABC):
    """Receives a run's config, its metrics after every step, and its summary at the end.

    It may raise any exception at any time; see `Loggers`. State that a resumed run needs, such as an id, is stored in
    `<run>/loggers/`.

    Attributes:
        turns: the most turns that `log_turns` receives; 0: it is not called.
    """

    turns: int = 0

    @abstractmethod
    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        """Called when the run starts, or resumes after step `resumed_at`.

        Args:
            config: the whole resolved config.
            folder: the run's folder.
            resumed_at: the last completed step; 0 for a new run.

        Returns:
            The last step already logged for this run, or -1; steps up to it are not logged again.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step; nested names are joined by slashes, as in eval/accuracy."""

    def log_turns(self, step: int, rows: Sequence[Row]) -> None:  # noqa: B027, optional
        """Log a sample of the step's turns, after `log`, at evaluations and at the last step; see `turns.sample`."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Called when the run ends or fails, with the content of summary.json. Only finished runs have curves.png."""


def require(choice: str, *packages: str) -> None:
    """Raise SelfplayError unless all packages needed by `logger=<choice>` are installed; none is imported."""
    for package in packages:
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # no origin: a plain folder, such as ./wandb with old runs
            raise SelfplayError(
                f"logger={choice} needs the package {package}, which is not installed; "
                f"install it with: pip install -e '.[{choice}]'"
            )


def flat(tree: object, name: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists to path -> leaf: {"eval": {"bounds": [0, 1]}} gives eval/bounds/0 and 1."""
    return dict(_leaves(tree, name))


def figures(metrics: Mapping[str, object]) -> dict[str, float]:
    """Flatten a line of metrics to path -> number; other leaves are dropped."""
    return {name: float(value) for name, value in _leaves(metrics, "") if isinstance(value, int | float)}


def _leaves(tree: object, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list | tuple):
        for key, inner in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(inner, f"{name}/{key}" if name else str(key))
    else:
        yield name, tree


def remembered(folder: Path, choice: str) -> dict[str, Any]:
    """The state that a logger stored in `<run>/loggers/<choice>.json`; empty if there is none."""
    path = folder / "loggers" / f"{choice}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def remember(folder: Path, choice: str, **facts: object) -> None:
    """Store facts in `<run>/loggers/<choice>.json`, replacing earlier ones."""
    path = folder / "loggers" / f"{choice}.json"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".writing")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.replace(path)
