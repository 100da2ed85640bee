"""Runs: what a run leaves on disk (write it, read it, resume it) and what a person sees of it."""

from typing import Any

from selfplay.runs.folder import RunFolder

__all__ = ["RunFolder", "Sweep", "load"]


def __getattr__(name: str) -> Any:
    """The tables of many runs, imported when they are asked for: training needs no pandas."""
    if name in ("Sweep", "load"):
        from selfplay.runs import sweep

        return getattr(sweep, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
