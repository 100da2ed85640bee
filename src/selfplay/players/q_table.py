"""A table of the values of all options, for games small enough to be solved exactly."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Batch, SelfplayError, at_least
from selfplay.options import Count, Number, Range, Temperature
from selfplay.players.tabular import Tabular
from selfplay.updates.categorical import expected
from selfplay.updates.critic import Critic


class QTable(Tabular, Critic):
    """A critic with one row per information state, as in `Tabular`, that plays softmax(Q / temperature).

    The return of each option is a categorical distribution over `atoms` equidistant numbers, whose mean is Q (C51,
    Bellemare et al. 2017, arXiv 1707.06887); with one atom it is Q itself. All distributions are uniform at first,
    so Q begins at the middle of the support.

    Args:
        states: maximum number of information states.
        actions: maximum number of options of a state.
        atoms: N, the number of returns to which a distribution gives probability; 1 for plain values.
        support: the lowest and the highest of them; None for the bounds of the game's returns, if it states them.
        temperature: of the softmax over Q, in units of the return.

    Raises:
        SelfplayError: the support is not given or not an interval, or the temperature is not above 0.
    """

    def __init__(
        self,
        states: Count = 1024,
        actions: Count = 8,
        atoms: Annotated[int, Range(1, 10_000)] = 51,
        support: Sequence[Number] | None = None,
        temperature: Temperature = 1.0,
    ) -> None:
        at_least(1, atoms=atoms)
        super().__init__(states, actions, temperature=temperature)
        if support is None:
            raise SelfplayError(
                "player.support is not set, and the game does not state the bounds of its returns; give the lowest and "
                "the highest return, for example player.support=[-1,1]"
            )
        if len(support) != 2 or not support[0] < support[1]:
            raise SelfplayError(f"player.support is {list(support)}; give two numbers, the lower one first")
        low, high = float(support[0]), float(support[1])
        middle = (low + high) / 2
        self.support = torch.linspace(low, high, atoms) if atoms > 1 else torch.tensor([middle])
        self._begin(torch.full((states, actions, atoms), middle if atoms == 1 else 0.0))

    def values(self, batch: Batch) -> Tensor:
        rows = torch.cat(batch.prompts)
        return self._values(rows).masked_fill(~self._there(rows)[..., None], -torch.inf)

    def rounding(self, batch: Batch) -> Tensor:
        largest = float(self.support.abs().max()) / (self.temperature or 1.0)
        return torch.full(batch.replies.shape, 64 * torch.finfo(self.logits.dtype).eps * largest)

    def _values(self, rows: Tensor) -> Tensor:
        """[N, actions, atoms], also beyond a state's options."""
        return torch.log_softmax(self.logits[rows], -1) if len(self.support) > 1 else self.logits[rows]

    def _preferences(self, rows: Tensor) -> Tensor:
        return expected(self._values(rows), self.support)
