"""Correcting for a sampler that is not quite the learner.

An engine with its own kernels, precision or weights samples from another distribution mu than the learner's pi. A
gradient from its samples is then weighed by the truncated importance ratio min(pi / mu, C) of each token (TIS, Yao et
al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"), or whole replies whose ratio is
out of bounds are left out. pi is the policy before the step, so the weights are constants of the gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from selfplay.core import Batch, SelfplayError

How = Literal["none", "token_truncate", "sequence_mask"]


def check_mismatch(how: str, clip: float) -> None:
    """Raise SelfplayError unless `how` is a correction and its bound is above 1."""
    if how not in get_args(How):
        raise SelfplayError(f"update.mismatch is '{how}'; take one of {', '.join(get_args(How))}")
    if not clip > 1:
        raise SelfplayError(f"update.mismatch_clip is {clip}, but it bounds a ratio from above; take more than 1")


def corrected(batch: Batch, logprobs: Tensor, how: str, clip: float) -> tuple[Batch, Tensor, dict[str, float]]:
    """What a step learns from, where the sampler is not exact.

    Args:
        batch: with the sampler's log-probs.
        logprobs: [B, T] the learner's before the step, 0 off the mask.
        how: "token_truncate" weighs tokens by min(ratio, clip), "sequence_mask" gives the tokens of a reply whose
            geometric mean ratio is above clip or below 1 / clip the weight 0, "none" gives all the weight 1.
        clip: C, the bound.

    Returns:
        The batch with the learner's log-probs in the place of the sampler's; the weight of each token [B, T]; and what
        is logged: mismatch/mean and mismatch/max, the absolute difference of log-probs in nats; mismatch/kl, the
        estimate k3 of KL(mu || pi) a token; mismatch/clipped, the share of tokens whose weight the bound changed; and
        mismatch/ess, the effective sample size (sum of ratios)^2 / sum of squared ratios of whole replies, over their
        number.
    """
    mask = batch.mask & batch.on_policy[:, None]
    apart = torch.where(mask, logprobs - batch.logprobs, 0.0).double()
    ratios = apart.exp()
    weights = torch.ones_like(ratios)
    if how == "token_truncate":
        weights = ratios.clamp(max=clip)
    elif how == "sequence_mask":
        mean = (apart.sum(-1) / mask.sum(-1).clamp(min=1)).exp()
        weights = weights * ((mean <= clip) & (mean >= 1 / clip))[:, None]
    changed = (weights != ratios) if how == "token_truncate" else (weights != 1)
    count = int(mask.sum())
    replies = apart.sum(-1)[mask.any(-1)]
    told = {
        "mismatch/mean": float(apart.abs().sum() / max(count, 1)),
        "mismatch/max": float(apart.abs().max()) if count else 0.0,
        "mismatch/kl": float(((ratios - 1 - apart) * mask).sum() / max(count, 1)),
        "mismatch/clipped": float((changed & mask).sum() / max(count, 1)),
        "mismatch/ess": _effective(replies),
    }
    learner = torch.where(mask, logprobs, batch.logprobs)
    return replace(batch, logprobs=learner), weights.float() * mask + (~mask).float(), told


def weighed(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The log-probs [B, T] with the gradient of each token multiplied by its weight [B, T]; the values stay."""
    return logprobs.detach() + weights * (logprobs - logprobs.detach())


def _effective(log_ratios: Tensor) -> float:
    """The effective sample size of importance weights exp(log_ratios) [N], over N."""
    if not len(log_ratios):
        return 1.0
    weights = (log_ratios - log_ratios.max()).exp()
    return float(weights.sum() ** 2 / weights.square().sum() / len(weights))
