"""When memory runs out: fewer rows at once, and the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from selfplay.console import say

T = TypeVar("T")
WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the CPU or an accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


class Rows:
    """The number of rows computed at once; halved, for the rest of the run, whenever memory runs out.

    Args:
        most: the number at first.
        option: the option that sets it, for the message.
    """

    def __init__(self, most: int, option: str) -> None:
        self.most, self.option = most, option

    def halve(self, used: int) -> None:
        """Halve the number of rows; `used` were computed at once, which may have been fewer than `most`."""
        self.most = max(1, min(self.most, used) // 2)
        say(f"note: memory ran out with {used} rows at once; {self.option} is {self.most} from now on")
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def halving(self, do: Callable[[int], T], count: int, rest: Callable[[], None] | None = None) -> T:
        """The result of `do(rows)`; if memory runs out, it is called again with half as many rows.

        Args:
            do: computes something whose result does not depend on the number of rows, up to rounding.
            count: the number of rows that there are to compute.
            rest: releases memory before the next call.

        Raises:
            RuntimeError: memory runs out with a single row.
        """
        while True:
            used = min(self.most, count)
            try:
                return do(self.most)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or used <= 1:
                    raise
            if rest is not None:  # outside the except clause, whose traceback holds the tensors of the failed call
                rest()
            self.halve(used)
