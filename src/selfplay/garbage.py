"""Pause Python's garbage collector while a process starts and exits. Imports nothing slow.

Collecting over the million objects of the imported modules takes a second at startup, and another at exit.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def hold_garbage() -> None:
    """Disable collection until the first run has loaded everything, and at exit."""
    gc.disable()
    atexit.register(gc.freeze)


@contextmanager
def paused() -> Iterator[None]:
    """Disable collection within the block, for code that creates many objects and no cycles."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def collected() -> Iterator[Callable[[], None]]:
    """Yield a function that the run calls once everything is loaded, which re-enables collection.

    Objects loaded since `hold_garbage` are exempt from collection during the run. In later jobs of a sweep, collection
    is already enabled and the function has no effect.
    """
    loading = not gc.isenabled()

    def collect() -> None:
        if loading:
            gc.freeze()
        gc.enable()

    try:
        yield collect
    finally:
        gc.enable()
        gc.unfreeze()
