"""The interface of policies that estimate values."""

from abc import abstractmethod

from torch import Tensor

from selfplay.core import Batch, Policy


class Critic(Policy):
    """A policy over options that estimates the return of each of them, and acts by these values.

    Attributes:
        support: [N] ascending, equidistant returns over which values are distributions; of length 1 for plain values.
    """

    support: Tensor

    @abstractmethod
    def values(self, batch: Batch) -> Tensor:
        """[B, A, N] log-probabilities of each option's return, with gradient; if N is 1, the value. -inf: no option."""
