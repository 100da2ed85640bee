"""The interface through which a run shares its work among processes; the base class is a single process.

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
    """A single process: it does all the work and has nothing to exchange.

    Attributes:
        rank: the number of this process, from 0; process 0 writes the run's files and prints.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `size`-th of the items, beginning with number `rank`: what this process works on."""
        return list(items[self.rank :: self.size])

    def together(self, do: Callable[[], T]) -> T:
        """This process's result of a call that every process makes; if one of them raises, all of them raise.

        Raises:
            SelfplayError: another process failed.
        """
        return do()

    def in_step(self, do: Callable[[], T]) -> T:
        """As `together`, for forward and backward passes over the parts of `rounds`."""
        return do()

    def collect(self, do: Callable[[], T]) -> list[T]:
        """The results of all processes, by rank; see `together`."""
        return [do()]

    def lead(self, do: Callable[[], T]) -> T:
        """The result of a call that process 0 alone makes; if it raises, all of them raise."""
        return do()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in place; the sums are the same bit for bit everywhere."""

    def close(self) -> None:
        """Leave the other processes."""

    def highest(self, value: float) -> float:
        """The largest of the processes' values."""
        return value

    def rounds(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's share of the parts; False marks one that must be computed, but counts in another process."""
        return [(part, True) for part in parts]

    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Sum the gradients over the processes; a parameter without one counts as 0."""

    # --- weights ------------------------------------------------------------------------------------------------------

    def wrap(self, model: Module) -> None:
        """Prepare a model that will be trained, in place, before its optimizer is made."""

    def copied(self, model: Module) -> Module:
        """A copy of a model with weights of its own."""
        return copy.deepcopy(model)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While the block lasts, every process holds all weights of every model that was wrapped or copied."""
        yield

    def on_reshard(self, do: Callable[[], None]) -> None:
        """Call `do` at the end of each block of `whole`, whose weights then are no longer there."""

    def placed_like(self, target: Tensor, value: Tensor) -> Tensor:
        """A whole tensor as the target is kept: this process's part of it, or all."""
        return value

    def own(self, value: Tensor) -> Tensor:
        """The part of a tensor that this process holds."""
        return value

    def gathered(self, state: T) -> T:
        """An optimizer's state with whole tensors; every process calls it."""
        return state

    def scatter(self, optimizer: Optimizer) -> None:
        """Keep this process's part of a whole state that was loaded into an optimizer."""


def merged(shares: Sequence[Sequence[T]]) -> list[T]:
    """The items in their order, of which these are the processes' shares."""
    size, count = len(shares), sum(map(len, shares))
    return [shares[i % size][i // size] for i in range(count)]


_current = Processes()


def current() -> Processes:
    """The processes of this run: a single one, unless `using` says otherwise."""
    return _current


@contextmanager
def using(processes: Processes) -> Iterator[Processes]:
    """While the block lasts, `current` returns these processes."""
    global _current
    before, _current = _current, processes
    try:
        yield processes
    finally:
        _current = before
