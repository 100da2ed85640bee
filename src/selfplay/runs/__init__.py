"""Runs: writing, reading and resuming run folders, and their console output."""

from typing import Any

from selfplay.runs.folder import RunFolder

__all__ = ["RunFolder", "Sweep", "load"]


def __getattr__(name: str) -> Any:
    """Import the tables of many runs lazily: training does not need pandas."""
    if name in ("Sweep", "load"):
        from selfplay.runs import sweep

        return getattr(sweep, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
