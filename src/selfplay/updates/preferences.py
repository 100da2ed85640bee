"""Preferences between replies: pure functions on whole replies' log-ratios, log pi(y) - log pi_ref(y). No reduction.

beta x the log-ratio is the reward that a policy implies (DPO, section 4); what wins over what is read from pay-offs by
the Bradley-Terry model: P(y > y') = sigmoid(r(y) - r(y')).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class PairLoss(Protocol):
    """(log-ratios of the chosen, of the rejected, win probabilities of both, all [P], beta) -> [P]."""

    def __call__(
        self, chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float
    ) -> Tensor: ...


def dpo(chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)); how often they win has no part in it. [P]

    DPO (2305.18290), equation 7. With the teacher's reply as the chosen one, the learner's as the rejected one and the
    previous iterate as reference it is the loss of SPIN (2401.01335), Algorithm 1, with its logistic l.
    """
    _check(chosen, rejected, chosen_wins, rejected_wins)
    return -logsigmoid(beta * (chosen - rejected))


def sppo(chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float) -> Tensor:
    """((chosen - (P_chosen - 1/2) / beta)^2 + (rejected - (P_rejected - 1/2) / beta)^2) / 2. [P]

    SPPO (2405.00675), Algorithm 1 on a best and a worst reply; 1 / beta is its eta, P the probability to win over the
    previous iterate, which is the reference of the log-ratios. The constant log Z is taken to be eta / 2, as there.
    """
    _check(chosen, rejected, chosen_wins, rejected_wins)
    up = chosen - (chosen_wins - 0.5) / beta
    down = rejected - (rejected_wins - 0.5) / beta
    return 0.5 * (up**2 + down**2)


def kto(ratios: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta (ratio - z)) of a desirable reply, 1 - sigmoid(beta (z - ratio)) of an undesirable one. [N]

    KTO (2402.01306), its loss without the weights lambda; see `kl_baseline` for z.

    Args:
        ratios: [N] log-ratios.
        desirable: [N] bool.
        baseline: [N] z, without gradient.
    """
    assert ratios.ndim == 1 and ratios.shape == desirable.shape == baseline.shape, "[N] each"
    sign = torch.where(desirable, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign * (ratios - baseline))


def kl_baseline(ratios: Tensor, weights: Tensor) -> Tensor:
    """max(0, weighted mean of the log-ratios): KTO's z, an estimate of KL(pi || pi_ref). [] from [N], [N]

    A ratio that is no number is left out: there the reply cannot be said after the prompt (a table's states may have
    different options). 0 if none is left.
    """
    assert ratios.ndim == 1 and ratios.shape == weights.shape, f"{tuple(ratios.shape)} beside {tuple(weights.shape)}"
    there = torch.isfinite(ratios)
    if not bool(there.any()):
        return ratios.new_zeros(())
    return ((weights[there] * ratios[there]).sum() / weights[there].sum()).clamp(min=0.0)


def win_probabilities(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] how likely a turn wins over one of its group: the weighted mean of sigmoid(r - r'), itself (1/2) included.

    The estimate of P(y > pi_t) that SPPO (2405.00675) makes from K replies; so the mean over a group is 1/2, and each
    is exactly 1/2 where a group is paid alike.

    Args:
        payoffs: [B].
        groups: [B] int64.
        weights: [B] how often each counts as the other one; None: alike.
    """
    assert payoffs.ndim == 1 and payoffs.shape == groups.shape, f"{tuple(payoffs.shape)}, {tuple(groups.shape)}"
    exact = payoffs.double()
    counts = torch.ones_like(exact) if weights is None else weights.double()
    wins = torch.empty_like(payoffs)
    for group in sorted(set(groups.tolist())):
        rows = (groups == group).nonzero()[:, 0]
        r, w = exact[rows], counts[rows]
        beyond = torch.tanh((r[:, None] - r[None]) / 2) @ w / (2 * w.sum())  # sigmoid(x) - 1/2 = tanh(x / 2) / 2
        wins[rows] = (0.5 + beyond).to(payoffs.dtype)
    return wins


def _check(*columns: Tensor) -> None:
    shapes = [tuple(x.shape) for x in columns]
    assert columns[0].ndim == 1 and len(set(shapes)) == 1, f"[P] each, got {shapes}"
