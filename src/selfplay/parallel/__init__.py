"""Sharing a run among the processes that `torchrun` starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfplay.parallel.processes import Processes, current, merged, using

__all__ = ("Processes", "current", "merged", "using")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from selfplay.parallel import processes

        return getattr(processes, name)
    raise AttributeError(name)
