"""Per-turn losses: pure functions from [B, T] log-probabilities to [B]; positions outside the mask are ignored.

Every objective takes the learner's log-probs, the sampler's log-probs and the mask (all [B, T]), the advantages [B] and
the regularizer's penalty [B, T], and sums over tokens. Nothing is averaged here: the aggregation weights replies by
length, and the update weights turns and roles.
"""

from typing import Annotated, Protocol

import torch
from torch import Tensor

from selfplay.options import Range, Share


class Objective(Protocol):
    """(log-probs, sampler's log-probs, mask, advantages, penalty) -> [B]."""

    def __call__(self, logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> Tensor: ...


def reinforce(logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> Tensor:
    """-(pi / stop_grad(pi)) A + sum of the penalty, where pi is the probability of the whole reply. [B]

    The gradient is -A grad log pi. This is the bracket of Language Self-Play (2509.07414), equations 4 and 5, with its
    sign. The objective is on-policy, so `old` is unused.
    """
    _check(logprobs, old, mask, advantages, penalty)
    reply = (logprobs * mask).sum(-1)
    return -(reply - reply.detach()).exp() * advantages + (penalty * mask).sum(-1)


def clipped(
    logprobs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    penalty: Tensor,
    low: Share = 0.2,
    high: Annotated[float, Range(0, 1000)] = 0.2,
) -> Tensor:
    """Sum over tokens of -min(r A, clip(r, 1 - low, 1 + high) A) + penalty, with r = pi / pi_old. [B]

    PPO (1707.06347), equation 7; GRPO (2402.03300), equation 3, with low = high; high > low is DAPO's Clip-Higher
    (2503.14476), equation 10.

    Args:
        low: the ratio is clipped from below at 1 - low.
        high: the ratio is clipped from above at 1 + high.
    """
    _check(logprobs, old, mask, advantages, penalty)
    ratio = ((logprobs - old) * mask).exp()
    a = advantages[:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)
    return ((penalty - gain) * mask).sum(-1)


def likelihood(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the reply, summed over tokens. [B]"""
    assert logprobs.ndim == 2 and logprobs.shape == mask.shape, f"{tuple(logprobs.shape)} and {tuple(mask.shape)}"
    return -(logprobs * mask).sum(-1)


def _check(logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (logprobs, old, mask, penalty)]
    assert logprobs.ndim == 2 and len(set(shapes)) == 1, f"[B, T] each, got {shapes}"
    assert advantages.shape == logprobs.shape[:1], f"[B] advantages, got {tuple(advantages.shape)} and {shapes[0]}"
