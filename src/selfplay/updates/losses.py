"""Losses of one turn each: pure functions from [B, T] log-probabilities to [B], nothing off the mask counts.

Every objective takes the learner's log-probs, the sampler's, the mask (all [B, T]), the advantages [B] and the
regularizer's terms [B, T], and adds tokens up to a sum a turn. Nothing is averaged here: how long replies count against
short ones is the aggregation's affair, how turns and roles count the update's.
"""

from typing import Annotated, Protocol

import torch
from torch import Tensor

from selfplay.options import Range, Share


class Objective(Protocol):
    """(log-probs, sampler's log-probs, mask, advantages, penalty) -> [B]."""

    def __call__(self, logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> Tensor: ...


def reinforce(logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> Tensor:
    """-(pi / stop(pi)) A + the penalty's sum, pi the whole reply's probability: gradient -A grad log pi. [B]

    The bracket of Language Self-Play (2509.07414), equations 4 and 5, with its sign. It is on-policy, so the sampler's
    log-probs have no part in it.
    """
    _check(logprobs, old, mask, advantages, penalty)
    whole = (logprobs * mask).sum(-1)
    return -(whole - whole.detach()).exp() * advantages + (penalty * mask).sum(-1)


def clipped(
    logprobs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    penalty: Tensor,
    low: Share = 0.2,
    high: Annotated[float, Range(0, 1000)] = 0.2,
) -> Tensor:
    """Sum over the reply's tokens of -min(r A, clip(r, 1 - low, 1 + high) A) + the penalty, r = pi / pi_old. [B]

    PPO (1707.06347), equation 7; GRPO (2402.03300), equation 3, with low = high; high > low is DAPO's Clip-Higher
    (2503.14476), equation 10.
    """
    _check(logprobs, old, mask, advantages, penalty)
    ratio = ((logprobs - old) * mask).exp()
    a = advantages[:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)
    return ((penalty - gain) * mask).sum(-1)


def likelihood(logprobs: Tensor, mask: Tensor) -> Tensor:
    """-log pi of the reply, the sum over its tokens: supervised learning. [B]"""
    assert logprobs.ndim == 2 and logprobs.shape == mask.shape, f"{tuple(logprobs.shape)} beside {tuple(mask.shape)}"
    return -(logprobs * mask).sum(-1)


def _check(logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (logprobs, old, mask, penalty)]
    assert logprobs.ndim == 2 and len(set(shapes)) == 1, f"[B, T] each, got {shapes}"
    assert advantages.shape == logprobs.shape[:1], f"[B] advantages, got {tuple(advantages.shape)} beside {shapes[0]}"
