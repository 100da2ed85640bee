"""What a logger is, and what the loggers share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfplay.core import SelfplayError


class Logger(ABC):
    """Somebody who is told a run's config, its figures step by step, and how it ended.

    It may raise whatever it likes, at any time: see `Loggers`. What it must remember from a run to the resumed run
    (an id, say) it keeps in `<run>/loggers/`.
    """

    @abstractmethod
    def start(self, config: Mapping[str, Any], folder: Path, resumed_at: int) -> int:
        """The run begins, or goes on after step `resumed_at`.

        Args:
            config: the whole config, resolved.
            folder: the run's folder.
            resumed_at: the last step that stands; 0 at the beginning.

        Returns:
            The last step that was logged of this run before; it is not told again. -1 if there was none.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The figures of a step, by names with slashes."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended, well or not: what summary.json holds. curves.png is in the folder if the run ended well."""


def require(choice: str, *packages: str) -> None:
    """Raise SelfplayError unless all the packages that `logger=<choice>` needs are installed; none is imported."""
    for package in packages:
        spec = find_spec(package)
        if (
            spec is None or spec.origin is None
        ):  # without an origin it is a mere folder, such as the ./wandb of old runs
            raise SelfplayError(
                f"logger={choice} needs the package {package}, which is not installed; "
                f"install it with: pip install -e '.[{choice}]'"
            )


def flat(tree: object, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists, by the path to each: {"eval": {"bounds": [0, 1]}} has eval/bounds/0."""
    return dict(_leaves(tree, name))


def figures(metrics: Mapping[str, object]) -> dict[str, float]:
    """The numeric leaves of a line of metrics, by the path to each."""
    return {name: float(value) for name, value in _leaves(metrics, "") if isinstance(value, int | float)}


def _leaves(tree: object, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list | tuple):
        for key, inner in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(inner, f"{name}/{key}" if name else str(key))
    else:
        yield name, tree


def remembered(folder: Path, choice: str) -> dict[str, Any]:
    """What a logger kept in `<run>/loggers/<choice>.json`; empty at the beginning."""
    path = folder / "loggers" / f"{choice}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def remember(folder: Path, choice: str, **facts: object) -> None:
    """Keep facts in `<run>/loggers/<choice>.json`, in place of earlier ones."""
    path = folder / "loggers" / f"{choice}.json"
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".writing")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.replace(path)
