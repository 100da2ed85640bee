"""Aggregation of token losses: pure functions from a batch to the weight of each turn's tokens, [B].

An update's loss is the sum over roles of role weight x mean over the role's turns of (this weight x sum over tokens).
A reply without tokens in the mask is one that is left out of the loss (`mask_truncated`); it still counts as a turn.
"""

from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch, at_least
from selfplay.options import Count


class Aggregation(Protocol):
    """batch -> [B] float32, above 0 for every reply with tokens."""

    def __call__(self, batch: Batch) -> Tensor: ...


def sequence_sum(batch: Batch) -> Tensor:
    """1: the sum over tokens, as if a reply were one action (Language Self-Play, RLOO). [B]"""
    return torch.ones(len(batch))


def per_reply(batch: Batch) -> Tensor:
    """1 / reply length: the mean over the reply's tokens (GRPO, 2402.03300, equation 3). [B]"""
    return 1.0 / batch.mask.sum(1).clamp(min=1)


def constant(batch: Batch, length: Count) -> Tensor:
    """1 / length for all replies, which removes the bias towards short correct and long incorrect answers. [B]

    Dr. GRPO (2503.20783), section 3.1 and listing 1.

    Args:
        length: a constant, usually the maximum length of a reply in tokens.
    """
    at_least(1, **{"update.aggregation.length": length})
    return torch.full((len(batch),), 1.0 / length)


def per_token(batch: Batch) -> Tensor:
    """1 / mean length of the role's replies: the mean over all tokens of the role in the batch. [B]

    DAPO (2503.14476), equation 12.
    """
    lengths = batch.mask.sum(1) * batch.weights
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for role, length, weight in zip(batch.roles, lengths.tolist(), batch.weights.tolist(), strict=True):
        sums[role] = sums.get(role, 0.0) + length
        counts[role] = counts.get(role, 0.0) + weight
    return torch.tensor([counts[role] / sums[role] if sums[role] else 0.0 for role in batch.roles])
