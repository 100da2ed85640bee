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


def gspo(
    logprobs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    penalty: Tensor,
    low: Share = 3e-4,
    high: Annotated[float, Range(0, 1000)] = 4e-4,
) -> Tensor:
    """Length x -min(s A, clip(s, 1 - low, 1 + high) A) + sum of the penalty, with s = (pi / pi_old)^(1 / length). [B]

    pi is the probability of the whole reply, so s is the geometric mean of its tokens' ratios. With `per_reply` this is
    GSPO (2507.18071), equations 5 and 7; with `sequence_sum`, LUSPO (2602.05261).

    Args:
        low: s is clipped from below at 1 - low; the default is the paper's (section 5.1).
        high: s is clipped from above at 1 + high; the default is the paper's.
    """
    _check(logprobs, old, mask, advantages, penalty)
    length = mask.sum(-1)
    ratio = (((logprobs - old) * mask).sum(-1) / length).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return (penalty * mask).sum(-1) - length * gain


def cispo(
    logprobs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    penalty: Tensor,
    most: Annotated[float, Range(0, 1000, above=True)] = 5.0,
) -> Tensor:
    """Sum over tokens of -stop_grad(min(r, most)) A log pi + penalty, with r = pi / pi_old. [B]

    Unlike with `clipped`, every token has a gradient. MiniMax-M1 (2506.13585), equations 4 and 5, without a lower
    bound, as there.

    Args:
        most: the largest weight of a token, 1 + epsilon_high in the paper, which has no value for it; the default is
            ScaleRL's (2510.13786).
    """
    _check(logprobs, old, mask, advantages, penalty)
    weight = ((logprobs.detach() - old) * mask).exp().clamp(max=most)
    return ((penalty - weight * advantages[:, None] * logprobs) * mask).sum(-1)


def sapo(
    logprobs: Tensor,
    old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    penalty: Tensor,
    positive: Annotated[float, Range(0, 1000, above=True)] = 1.0,
    negative: Annotated[float, Range(0, 1000, above=True)] = 1.05,
) -> Tensor:
    """Sum over tokens of -(4 / tau) sigmoid(tau (r - 1)) A + penalty, with r = pi / pi_old. [B]

    The gradient's weight on a token is 4 p (1 - p) r with p = sigmoid(tau (r - 1)): 1 at r = 1, and falling smoothly
    where `clipped` has a bound. Soft Adaptive Policy Optimization (2511.20347), with the default temperatures of the
    paper and of TRL.

    Args:
        positive: the temperature tau where A > 0.
        negative: the temperature tau elsewhere.
    """
    _check(logprobs, old, mask, advantages, penalty)
    a = advantages[:, None]
    tau = torch.where(a > 0, positive, negative)
    gate = (tau * (((logprobs - old) * mask).exp() - 1)).sigmoid() * 4 / tau
    return ((penalty - gate * a) * mask).sum(-1)


def likelihood(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the reply, summed over tokens. [B]"""
    assert logprobs.ndim == 2 and logprobs.shape == mask.shape, f"{tuple(logprobs.shape)} and {tuple(mask.shape)}"
    return -(logprobs * mask).sum(-1)


def _check(logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, penalty: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (logprobs, old, mask, penalty)]
    assert logprobs.ndim == 2 and len(set(shapes)) == 1, f"[B, T] each, got {shapes}"
    assert advantages.shape == logprobs.shape[:1], f"[B] advantages, got {tuple(advantages.shape)} and {shapes[0]}"
