"""Interface for sharing the work of a run among processes; the base class is a single process.

All processes of a run execute the same program on the same state: each plays and scores its share of the episodes,
the episodes are gathered, every process collates the same batch, and each computes its share of the gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

T = TypeVar("T")


class Processes:
    """A single process, which does all the work.

    Attributes:
        rank: the number of this process, from 0; process 0 writes the run's files and prints.
        size: the number of processes.
        repeats: whether a process may repeat its passes when memory runs out, as all others then do.
    """

    rank: int = 0
    size: int = 1
    repeats: bool = True

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's share of the items: every `size`-th, starting at index `rank`."""
        return list(items[self.rank :: self.size])

    def together(self, do: Callable[[], T]) -> T:
        """Make a call in every process, and return this process's result; if one process raises, all raise.

        Raises:
            SelfplayError: another process failed.
        """
        return do()

    def in_step(self, do: Callable[[], T]) -> T:
        """Like `together`, for forward and backward passes over the parts of `rounds`."""
        return do()

    def collect(self, do: Callable[[], T]) -> list[T]:
        """Like `together`, but return the results of all processes, by rank."""
        return [do()]

    def lead(self, do: Callable[[], T]) -> T:
        """Make a call in process 0 only, and return its result in all processes; if it raises, all raise."""
        return do()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in place; all processes get identical sums, bit for bit."""

    def close(self) -> None:
        """Leave the other processes."""

    def highest(self, value: float) -> float:
        """The largest of the processes' values."""
        return value

    def rounds(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's share of the parts; False marks a part to compute whose result does not count here."""
        return [(part, True) for part in parts]

    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Sum the gradients over the processes; a parameter without one counts as 0."""

    # --- weights ------------------------------------------------------------------------------------------------------

    def wrap(self, model: Module) -> None:
        """Prepare a model for training, in place, before its optimizer is created."""

    def copied(self, model: Module) -> Module:
        """A copy of a model with separate weights."""
        return copy.deepcopy(model)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block, every process holds all weights of every wrapped or copied model."""
        yield

    def on_reshard(self, do: Callable[[], None]) -> None:
        """Call `do` at the end of each block of `whole`, before the weights are sharded again."""

    def placed_like(self, target: Tensor, value: Tensor) -> Tensor:
        """A whole tensor in the layout of the target: this process's part of it, or all of it."""
        return value

    def own(self, value: Tensor) -> Tensor:
        """The part of a tensor that this process holds."""
        return value

    def gathered(self, state: T) -> T:
        """An optimizer's state with whole tensors; called by every process."""
        return state

    def scatter(self, optimizer: Optimizer) -> None:
        """Reduce a whole state that was loaded into an optimizer to this process's part."""


def merged(shares: Sequence[Sequence[T]]) -> list[T]:
    """Invert `share`: all items in order, from the shares of the processes."""
    size, count = len(shares), sum(map(len, shares))
    return [shares[i % size][i // size] for i in range(count)]


_current = Processes()


def current() -> Processes:
    """The processes of this run: those of the enclosing `using` block, or a single process."""
    return _current


@contextmanager
def using(processes: Processes) -> Iterator[Processes]:
    """Within the block, `current` returns these processes."""
    global _current
    before, _current = _current, processes
    try:
        yield processes
    finally:
        _current = before
