"""Preference losses: pure functions of the log-ratios log pi(y) - log pi_ref(y) of whole replies, without reduction.

beta x log-ratio is the implicit reward of a policy (DPO, section 4). Win probabilities follow from payoffs by the
Bradley-Terry model: P(y > y') = sigmoid(r(y) - r(y')).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class PairLoss(Protocol):
    """(log-ratios of chosen and rejected, win probabilities of both, all [P]; beta) -> [P]."""

    def __call__(
        self, chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float
    ) -> Tensor: ...


def dpo(chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)); win probabilities are unused. [P]

    DPO (2305.18290), equation 7. With the teacher's reply as chosen, the learner's as rejected and the previous
    iterate as reference, this is the loss of SPIN (2401.01335), Algorithm 1, with logistic l.
    """
    _check(chosen, rejected, chosen_wins, rejected_wins)
    return -logsigmoid(beta * (chosen - rejected))


def sppo(chosen: Tensor, rejected: Tensor, chosen_wins: Tensor, rejected_wins: Tensor, beta: float) -> Tensor:
    """((chosen - (P_chosen - 1/2) / beta)^2 + (rejected - (P_rejected - 1/2) / beta)^2) / 2. [P]

    SPPO (2405.00675), Algorithm 1 applied to the best and the worst reply. 1 / beta is the paper's eta, and P is the
    probability of beating the previous iterate, the reference of the log-ratios. As in the paper, log Z is eta / 2.
    """
    _check(chosen, rejected, chosen_wins, rejected_wins)
    up = chosen - (chosen_wins - 0.5) / beta
    down = rejected - (rejected_wins - 0.5) / beta
    return 0.5 * (up**2 + down**2)


def kto(ratios: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta (ratio - z)) for desirable replies, 1 - sigmoid(beta (z - ratio)) for undesirable ones. [N]

    The loss of KTO (2402.01306) without the weights lambda; see `kl_baseline` for z.

    Args:
        ratios: [N] log-ratios.
        desirable: [N] bool.
        baseline: [N] z, without gradient.
        beta: reward per nat of log-ratio.
    """
    assert ratios.ndim == 1 and ratios.shape == desirable.shape == baseline.shape, "[N] each"
    sign = torch.where(desirable, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign * (ratios - baseline))


def kl_baseline(ratios: Tensor, weights: Tensor) -> Tensor:
    """max(0, weighted mean of the log-ratios): KTO's z, an estimate of KL(pi || pi_ref). ([N], [N]) -> []

    Ratios that are not finite are dropped: such a reply is impossible after the prompt (the states of a tabular policy
    may have different options). 0 if none is left.
    """
    assert ratios.ndim == 1 and ratios.shape == weights.shape, f"{tuple(ratios.shape)} and {tuple(weights.shape)}"
    valid = torch.isfinite(ratios)
    if not bool(valid.any()):
        return ratios.new_zeros(())
    return ((weights[valid] * ratios[valid]).sum() / weights[valid].sum()).clamp(min=0.0)


def win_probabilities(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the probability that a turn beats a random turn of its group: weighted mean of sigmoid(r - r'), incl. itself.

    SPPO's (2405.00675) estimate of P(y > pi_t) from K replies. The mean over a group is 1/2, and all values are exactly
    1/2 if its payoffs are equal.

    Args:
        payoffs: [B].
        groups: [B] int64.
        weights: [B] weight of each turn as the opponent; None: equal.
    """
    assert payoffs.ndim == 1 and payoffs.shape == groups.shape, f"{tuple(payoffs.shape)}, {tuple(groups.shape)}"
    exact = payoffs.double()
    counts = torch.ones_like(exact) if weights is None else weights.double()
    wins = torch.empty_like(payoffs)
    for group in sorted(set(groups.tolist())):
        rows = (groups == group).nonzero()[:, 0]
        r, w = exact[rows], counts[rows]
        margin = torch.tanh((r[:, None] - r[None]) / 2) @ w / (2 * w.sum())  # sigmoid(x) - 1/2 = tanh(x / 2) / 2
        wins[rows] = (0.5 + margin).to(payoffs.dtype)
    return wins


def _check(*columns: Tensor) -> None:
    shapes = [tuple(x.shape) for x in columns]
    assert columns[0].ndim == 1 and len(set(shapes)) == 1, f"[P] each, got {shapes}"
