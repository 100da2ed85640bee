"""An optimizer step on losses of whole replies that may combine any of them: pairs, groups, the whole batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from selfplay.core import Batch
from selfplay.updates.gradient_step import GradientStep

RatioLosses = Callable[[Tensor], tuple[Tensor, Tensor]]  # log-ratios [B] -> losses [N], weights [N]


def log_ratios(step: GradientStep, batch: Batch, reference: Tensor) -> Tensor:
    """[B] log pi - log pi_ref of whole replies under the current policy, without gradient. reference: [B, T]"""
    width = batch.replies.shape[1]
    return ((step.logprobs(step.policy, batch) - reference[:, :width]) * batch.mask).sum(-1)


def descend_on_ratios(
    step: GradientStep, batch: Batch, reference: Tensor, losses: RatioLosses
) -> tuple[dict[str, float], Tensor, Tensor]:
    """One optimizer step on the weighted sum of the losses, exact for any micro-batch size.

    The loss depends on the policy only through B log-ratios, so by the chain rule a first pass computes the ratios and
    the derivative of the loss in each, and a second pass backpropagates each reply with that factor.

    Args:
        step: the optimizer step.
        batch: the turns.
        reference: [B, T] log-probs of the reference.
        losses: log-ratios [B] -> losses [N] and their weights [N].

    Returns:
        loss, grad_norm and logprob_mismatch; the log-ratios [B] before the step; and the negative derivative of the
        unweighted sum of the losses in each [B], which is the advantage that gives `reinforce` the same gradient.
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
