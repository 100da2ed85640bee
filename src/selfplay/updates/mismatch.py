"""Correction for a sampler whose distribution differs slightly from the learner's.

An engine with its own kernels, precision or weights samples from a distribution mu other than the learner's pi. Each
token's gradient is then weighted by the truncated importance ratio min(pi / mu, C) (TIS, Yao et al. 2025, "Your
efficient RL framework secretly brings you off-policy RL training"), or replies whose ratio is out of bounds are masked.
pi is the policy before the step, so the weights carry no gradient.

Beyond rounding there is nothing to correct: an engine with wrong weights ends the run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from selfplay.core import Batch, SelfplayError

How = Literal["none", "token_truncate", "sequence_mask"]


def check_mismatch(how: str, clip: float, most: float) -> None:
    """Raise SelfplayError unless `how` is a known correction, `clip` is above 1 and `most` above 0."""
    if how not in get_args(How):
        raise SelfplayError(f"update.mismatch is '{how}'; choose one of {', '.join(get_args(How))}")
    if not clip > 1:
        raise SelfplayError(f"update.mismatch_clip is {clip}, but it bounds a ratio from above; choose more than 1")
    if not most > 0:
        raise SelfplayError(f"update.most_mismatch is {most}, but no such sampler is exact; choose more than 0 nats")


def corrected(
    batch: Batch, logprobs: Tensor, how: str, clip: float, most: float = math.inf
) -> tuple[Batch, Tensor, dict[str, float]]:
    """Correct a batch from an inexact sampler.

    Args:
        batch: the turns, with the sampler's log-probs.
        logprobs: [B, T] the learner's log-probs before the step, 0 outside the mask.
        how: "token_truncate" weights each token by min(ratio, clip); "sequence_mask" sets the weight to 0 in replies
            whose geometric mean ratio is above clip or below 1 / clip; "none" gives every token weight 1.
        clip: the bound C.
        most: the largest mismatch/mean that rounding may cause.

    Returns:
        The batch with the learner's log-probs instead of the sampler's; the weight of each token [B, T]; and metrics:
        mismatch/mean and mismatch/max, the absolute difference of log-probs in nats; mismatch/kl, the k3 estimate of
        KL(mu || pi) per token; mismatch/clipped, the share of tokens whose weight was clipped or masked; and
        mismatch/ess, the effective sample size (sum of ratios)^2 / (sum of squared ratios) of whole replies, divided by
        their number.

    Raises:
        SelfplayError: mismatch/mean is above `most`, or not a number.
    """
    mask = batch.mask & batch.on_policy[:, None]
    difference = torch.where(mask, logprobs - batch.logprobs, 0.0).double()
    ratios = difference.exp()
    weights = torch.ones_like(ratios)
    if how == "token_truncate":
        weights = ratios.clamp(max=clip)
    elif how == "sequence_mask":
        mean = (difference.sum(-1) / mask.sum(-1).clamp(min=1)).exp()
        weights = weights * ((mean <= clip) & (mean >= 1 / clip))[:, None]
    changed = (weights != ratios) if how == "token_truncate" else (weights != 1)
    count = int(mask.sum())
    replies = difference.sum(-1)[mask.any(-1)]
    metrics = {
        "mismatch/mean": float(difference.abs().sum() / max(count, 1)),
        "mismatch/max": float(difference.abs().max()) if count else 0.0,
        "mismatch/kl": float(((ratios - 1 - difference) * mask).sum() / max(count, 1)),
        "mismatch/clipped": float((changed & mask).sum() / max(count, 1)),
        "mismatch/ess": _effective(replies),
    }
    if not metrics["mismatch/mean"] <= most:
        raise SelfplayError(
            f"the learner and the engine that samples for it disagree by {metrics['mismatch/mean']:.2g} nats per token "
            f"(mismatch/mean), more than update.most_mismatch={most:g}, so the engine has other weights or computes "
            "something else; check that it serves the learner's model, in a precision near the learner's, or raise "
            "update.most_mismatch"
        )
    learner = torch.where(mask, logprobs, batch.logprobs)
    return replace(batch, logprobs=learner), weights.float() * mask + (~mask).float(), metrics


def weighed(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The log-probs [B, T], with each token's gradient multiplied by its weight [B, T]; values are unchanged."""
    return logprobs.detach() + weights * (logprobs - logprobs.detach())


def _effective(log_ratios: Tensor) -> float:
    """The effective sample size of importance weights exp(log_ratios) [N], divided by N."""
    if not len(log_ratios):
        return 1.0
    weights = (log_ratios - log_ratios.max()).exp()
    return float(weights.sum() ** 2 / weights.square().sum() / len(weights))
