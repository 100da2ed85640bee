"""Sampling from the likeliest tokens alone: top-k, top-p (nucleus), min-p."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selfplay.core import SelfplayError


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be said, applied in this order to tempered logits, each to what the one before has left.

    Args:
        top_k: the k likeliest; 0 for all.
        top_p: the smallest set of the likeliest that together have this probability (1904.09751); 1 for all.
        min_p: those that have this share of the likeliest one's probability (2407.01082); 0 for all.

    Raises:
        SelfplayError: a number out of its range.
    """

    top_k: int
    top_p: float
    min_p: float

    def __post_init__(self) -> None:
        if type(self.top_k) is not int or self.top_k < 0:
            raise SelfplayError(f"player.top_k is {self.top_k}; give a whole number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise SelfplayError(f"player.top_p is {self.top_p}, but it is a share above 0; 1 keeps all tokens")
        if not 0 <= self.min_p <= 1:
            raise SelfplayError(f"player.min_p is {self.min_p}, but it is a share; 0 keeps all tokens")

    @property
    def keeps_all(self) -> bool:
        return not self.top_k and self.top_p == 1 and not self.min_p

    def __call__(self, logits: Tensor, said: Tensor | None = None) -> Tensor:
        """Logits [M, V] with minus infinity for what may not be said.

        Args:
            said: [M] tokens that stay: they were said by a policy whose logits were rounded otherwise.
        """
        if self.keeps_all:
            return logits
        with torch.no_grad():
            out = self._out(logits.detach())
            if said is not None:
                out.scatter_(-1, said[:, None], False)
        return logits.masked_fill(out, -torch.inf)

    def doubt(self, logits: Tensor, said: Tensor, slack: float) -> Tensor:
        """[M] how far the log-probability of a token [M] that was said depends on logits being off by `slack`.

        It is the log of how much more may be said at most than at least: tokens near a border may be in or out.
        """
        mine = torch.nn.functional.one_hot(said, logits.shape[-1]).bool()
        most, least = (
            logits.masked_fill(self._beyond(logits, way * slack) & ~mine, -torch.inf).logsumexp(-1) for way in (1, -1)
        )
        return (most - least).clamp(min=0)

    def _beyond(self, logits: Tensor, slack: float) -> Tensor:
        """[M, V] bool, what is out at the most generous (slack > 0) or at the strictest (slack < 0) of roundings."""
        left, more = logits, math.exp(min(slack, 50.0))
        if 0 < self.top_k < logits.shape[-1]:
            left = left.masked_fill(left < left.topk(self.top_k).values[:, -1:] - slack, -torch.inf)
        if self.top_p < 1:
            ordered, where = left.sort(-1)
            shares = ordered.softmax(-1)
            below = torch.nn.functional.pad(shares.cumsum(-1), (1, 0))  # of the least likely so many
            count = torch.searchsorted(ordered, ordered + slack, right=slack > 0)
            unlikely = (below.gather(-1, count) + (0 if slack > 0 else shares)) * more <= 1 - self.top_p
            left = left.masked_fill(torch.zeros_like(unlikely).scatter(-1, where, unlikely), -torch.inf)
        if self.min_p:
            shares = left.softmax(-1)
            left = left.masked_fill(shares * more < self.min_p * shares.amax(-1, keepdim=True), -torch.inf)
        return left == -torch.inf

    def _out(self, logits: Tensor) -> Tensor:
        """[M, V] bool; the likeliest token is always in."""
        left = logits
        if 0 < self.top_k < logits.shape[-1]:
            left = left.masked_fill(left < left.topk(self.top_k).values[:, -1:], -torch.inf)
        if self.top_p < 1:
            ordered, where = left.sort(-1)
            unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
            unlikely[:, -1] = False
            left = left.masked_fill(unlikely.scatter(-1, where, unlikely), -torch.inf)
        if self.min_p:
            shares = left.softmax(-1)
            left = left.masked_fill(shares < self.min_p * shares.amax(-1, keepdim=True), -torch.inf)
        return left == -torch.inf


ALL = Truncation(0, 1.0, 0.0)
