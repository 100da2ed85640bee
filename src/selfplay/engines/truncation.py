"""Truncated sampling: top-k, top-p (nucleus) and min-p."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selfplay.core import SelfplayError


@dataclass(frozen=True)
class Truncation:
    """Top-k, top-p and min-p filters, applied in this order to tempered logits, each to what the previous one kept.

    Args:
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens that sums to at least this (1904.09751); 1 keeps all.
        min_p: keep tokens with at least this fraction of the maximum probability (2407.01082); 0 keeps all.

    Raises:
        SelfplayError: a value is out of range.
    """

    top_k: int
    top_p: float
    min_p: float

    def __post_init__(self) -> None:
        if type(self.top_k) is not int or self.top_k < 0:
            raise SelfplayError(f"player.top_k is {self.top_k}; give a whole number of tokens, or 0 to keep all")
        if not 0 < self.top_p <= 1:
            raise SelfplayError(f"player.top_p is {self.top_p}; give a number in (0, 1], where 1 keeps all tokens")
        if not 0 <= self.min_p <= 1:
            raise SelfplayError(f"player.min_p is {self.min_p}; give a number from 0 to 1, where 0 keeps all tokens")

    @property
    def keeps_all(self) -> bool:
        return not self.top_k and self.top_p == 1 and not self.min_p

    def __call__(self, logits: Tensor, sampled: Tensor | None = None) -> Tensor:
        """Logits [M, V] with -inf for tokens that are filtered out.

        Args:
            logits: [M, V], already divided by the temperature.
            sampled: [M] sampled tokens, which are always kept: the sampler's logits may have been rounded differently.
        """
        if self.keeps_all:
            return logits
        with torch.no_grad():
            out = self._out(logits.detach())
            if sampled is not None:
                out.scatter_(-1, sampled[:, None], False)
        return logits.masked_fill(out, -torch.inf)

    def doubt(self, logits: Tensor, sampled: Tensor, slack: float) -> Tensor:
        """[M] by how much the log-probability of a sampled token [M] may change if logits are off by `slack`.

        Tokens near a threshold may be kept or dropped; this is the log ratio of the largest to the smallest total
        weight that may be kept.
        """
        mine = torch.nn.functional.one_hot(sampled, logits.shape[-1]).bool()
        most, least = (
            logits.masked_fill(self._beyond(logits, way * slack) & ~mine, -torch.inf).logsumexp(-1) for way in (1, -1)
        )
        return (most - least).clamp(min=0)

    def _beyond(self, logits: Tensor, slack: float) -> Tensor:
        """[M, V] bool, the tokens dropped under the most generous (slack > 0) or strictest (slack < 0) rounding."""
        left, more = logits, math.exp(min(slack, 50.0))
        if 0 < self.top_k < logits.shape[-1]:
            left = left.masked_fill(left < left.topk(self.top_k).values[:, -1:] - slack, -torch.inf)
        if self.top_p < 1:
            ordered, where = left.sort(-1)
            shares = ordered.softmax(-1)
            below = torch.nn.functional.pad(shares.cumsum(-1), (1, 0))  # probability of the n least likely tokens
            count = torch.searchsorted(ordered, ordered + slack, right=slack > 0)
            unlikely = (below.gather(-1, count) + (0 if slack > 0 else shares)) * more <= 1 - self.top_p
            left = left.masked_fill(torch.zeros_like(unlikely).scatter(-1, where, unlikely), -torch.inf)
        if self.min_p:
            shares = left.softmax(-1)
            left = left.masked_fill(shares * more < self.min_p * shares.amax(-1, keepdim=True), -torch.inf)
        return left == -torch.inf

    def _out(self, logits: Tensor) -> Tensor:
        """[M, V] bool, the tokens to drop; the most likely token is always kept."""
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
