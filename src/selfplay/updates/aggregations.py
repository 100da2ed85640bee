"""How the tokens of a turn count: pure functions of a batch to the weight of each token of each turn, [B].

An update's loss is the sum over roles of the role's weight x the mean over its turns of this weight x the turn's sum
over tokens.
"""

from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch, at_least
from selfplay.options import Count


class Aggregation(Protocol):
    """batch -> [B] float32, above 0."""

    def __call__(self, batch: Batch) -> Tensor: ...


def sequence_sum(batch: Batch) -> Tensor:
    """1: a reply counts as one action, whatever its length (Language Self-Play, RLOO). [B]"""
    return torch.ones(len(batch))


def per_reply(batch: Batch) -> Tensor:
    """1 over the reply's own length: the mean over its tokens (GRPO, 2402.03300, equation 3). [B]"""
    return 1.0 / batch.mask.sum(1)


def constant(batch: Batch, length: Count) -> Tensor:
    """1 over a constant, the longest reply that may be: no bias towards short right answers, or long wrong ones. [B]

    Dr. GRPO (2503.20783), section 3.1 and listing 1.
    """
    at_least(1, **{"update.aggregation.length": length})
    return torch.full((len(batch),), 1.0 / length)


def per_token(batch: Batch) -> Tensor:
    """1 over the mean length of the role's replies: the mean over all tokens of the role in the batch. [B]

    DAPO (2503.14476), equation 12.
    """
    lengths = batch.mask.sum(1) * batch.weights
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for role, length, weight in zip(batch.roles, lengths.tolist(), batch.weights.tolist(), strict=True):
        sums[role] = sums.get(role, 0.0) + length
        counts[role] = counts.get(role, 0.0) + weight
    return torch.tensor([counts[role] / sums[role] for role in batch.roles])
