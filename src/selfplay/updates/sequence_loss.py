"""A step on a loss of whole replies, whichever of them it takes together: pairs, groups, the whole batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from selfplay.core import Batch
from selfplay.updates.gradient_step import GradientStep

RatioLosses = Callable[[Tensor], tuple[Tensor, Tensor]]  # log-ratios [B] -> losses [N], the weight of each [N]


def log_ratios(step: GradientStep, batch: Batch, reference: Tensor) -> Tensor:
    """[B] log pi - log pi_ref of the whole replies, the policy as it is now, without gradient. reference: [B, T]"""
    width = batch.replies.shape[1]
    return ((step.logprobs(step.policy, batch) - reference[:, :width]) * batch.mask).sum(-1)


def descend_on_ratios(
    step: GradientStep, batch: Batch, reference: Tensor, losses: RatioLosses
) -> tuple[dict[str, float], Tensor, Tensor]:
    """One optimizer step on the weighted sum of the losses, exact for any micro-batch.

    The loss knows the policy by B numbers, so its gradient is the sum of its slopes in them x their gradients: the
    ratios are computed first, then a second pass of the policy pulls each reply with its slope.

    Args:
        reference: [B, T] log-probs of the reference.

    Returns:
        loss, grad_norm and logprob_mismatch; the log-ratios [B] before the step; and [B] minus the slope of the plain
        sum of the losses in each, the advantage with which `reinforce` would pull alike.
    """
    if len(batch) == 0:
        return step.descend(batch, torch.zeros(0), _sequence_sum), torch.zeros(0), torch.zeros(0)
    ratios = log_ratios(step, batch, reference).requires_grad_()
    each, weights = losses(ratios)
    total = (weights * each).sum()
    [slopes] = torch.autograd.grad(total, ratios, retain_graph=True)
    [plain] = torch.autograd.grad(each.sum(), ratios)
    metrics = step.descend(batch, slopes, _sequence_sum)
    return metrics | {"loss": float(total.detach())}, ratios.detach(), -plain


def _sequence_sum(rows: Tensor, logprobs: Tensor) -> Tensor:
    return logprobs.sum(-1)
