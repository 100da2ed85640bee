"""Python's garbage collector at rest while a process starts and ends; nothing heavy is imported here.

Looking for garbage among the million objects of the imported modules takes a second, and another one at the end, when
nobody needs the memory any more.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def hold_garbage() -> None:
    """Do not collect until the first run begins its game, nor at exit."""
    gc.disable()
    atexit.register(gc.freeze)


@contextmanager
def collected() -> Iterator[Callable[[], None]]:
    """A run; it calls what it is given when all is loaded, and from then on garbage is collected.

    What was loaded after `hold_garbage` is never looked at again while the run lasts; a later job of a sweep finds all
    of it there, and leaves the collector as it is.
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
