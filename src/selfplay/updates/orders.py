"""The order in which the updates of a round learn from its turns; see `selfplay.updates.stages.Stages`."""

from collections.abc import Callable
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch


class Order(Protocol):
    """(batch, logprobs, rng) -> [B] a number per turn; turns with lower numbers are learnt from first.

    Args:
        logprobs: computes [B, T] log-probabilities of the batch's replies under the current policy, behind the prompts
            that are learnt.
    """

    def __call__(self, batch: Batch, logprobs: Callable[[], Tensor], rng: Random) -> Tensor: ...


def shuffled(batch: Batch, logprobs: Callable[[], Tensor], rng: Random) -> Tensor:
    """Random numbers. [B]"""
    return torch.tensor([rng.random() for _ in range(len(batch))])


def surprisal(batch: Batch, logprobs: Callable[[], Tensor], rng: Random) -> Tensor:
    """The mean of -log pi over the tokens of each reply, in nats: replies of low perplexity first. [B]

    SOFT+ (2402.07610) learns from easy to hard in this way.
    """
    return -(logprobs() * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
