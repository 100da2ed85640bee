"""Preference losses: pure functions of the log-ratios log pi(y) - log pi_ref(y) of whole replies, without reduction.

beta x log-ratio is the implicit reward of a policy (DPO, section 4). Win probabilities follow from payoffs by the
Bradley-Terry model: P(y > y') = sigmoid(r(y) - r(y')).
"""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PairedReplies:
    """What a loss may use of P pairs of replies, all [P].

    Attributes:
        chosen, rejected: log-ratios of whole replies.
        chosen_wins, rejected_wins: the replies' win probabilities.
        chosen_length, rejected_length: the replies' numbers of tokens.
        weights: how many times each pair counts in averages over pairs.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_wins: Tensor
    rejected_wins: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(getattr(self, field.name).shape) for field in fields(self)]
        assert self.chosen.ndim == 1 and len(set(shapes)) == 1, f"[P] each, got {shapes}"

    def rows(self, index: Tensor) -> "PairedReplies":
        """The pairs at `index` (int64)."""
        return PairedReplies(*(getattr(self, field.name)[index] for field in fields(self)))


class PairLoss(Protocol):
    """(pairs of one role, beta) -> [P]."""

    def __call__(self, pairs: PairedReplies, beta: float) -> Tensor: ...


def dpo(pairs: PairedReplies, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)). [P]

    DPO (2305.18290), equation 7. With the teacher's reply as chosen, the learner's as rejected and the previous
    iterate as reference, this is the loss of SPIN (2401.01335), Algorithm 1, with logistic l.
    """
    return -logsigmoid(beta * (pairs.chosen - pairs.rejected))


def ipo(pairs: PairedReplies, beta: float, average: bool = True) -> Tensor:
    """(chosen - rejected - 1 / (2 beta))^2, by default with log-ratios divided by the replies' lengths. [P]

    IPO (2310.12036), equation 17, where beta is called tau. The equation has the log-ratios of whole replies; the
    authors' experiments divided them by the number of tokens, as TRL's `ipo` does.

    Args:
        pairs: the pairs.
        beta: the inverse of twice the gap between the two log-ratios at which the loss is 0.
        average: whether to divide a reply's log-ratio by its length; if false, the loss is equation 17 to the letter.
    """
    up, down = pairs.chosen, pairs.rejected
    if average:
        up, down = up / pairs.chosen_length, down / pairs.rejected_length
    return (up - down - 1 / (2 * beta)) ** 2


def kto_pair(pairs: PairedReplies, beta: float) -> Tensor:
    """(1 - sigmoid(beta (chosen - z_rejected)) + 1 - sigmoid(beta (z_chosen - rejected))) / 2. [P]

    KTO on pairs, as in the HALOs report and in TRL 0.7.5 to 0.9.4 (`kto_pair`). The baseline z of one half is
    max(0, mean log-ratio) of the other. In that code, and so here, the baselines carry gradient; in `kto` they do not.
    """
    desirable = torch.ones_like(pairs.chosen, dtype=torch.bool)
    z_chosen, z_rejected = (kl_baseline(half, pairs.weights) for half in (pairs.chosen, pairs.rejected))
    up = kto(pairs.chosen, desirable, z_rejected.expand_as(pairs.chosen), beta)
    down = kto(pairs.rejected, ~desirable, z_chosen.expand_as(pairs.rejected), beta)
    return 0.5 * (up + down)


def sppo(pairs: PairedReplies, beta: float) -> Tensor:
    """((chosen - (P_chosen - 1/2) / beta)^2 + (rejected - (P_rejected - 1/2) / beta)^2) / 2. [P]

    SPPO (2405.00675), Algorithm 1 applied to the best and the worst reply. 1 / beta is the paper's eta, and P is the
    probability of beating the previous iterate, the reference of the log-ratios. As in the paper, log Z is eta / 2.
    """
    up = pairs.chosen - (pairs.chosen_wins - 0.5) / beta
    down = pairs.rejected - (pairs.rejected_wins - 0.5) / beta
    return 0.5 * (up**2 + down**2)


def kto(ratios: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta (ratio - z)) for desirable replies, 1 - sigmoid(beta (z - ratio)) for undesirable ones. [N]

    The loss of KTO (2402.01306) without the weights lambda; see `kl_baseline` for z.

    Args:
        ratios: [N] log-ratios.
        desirable: [N] bool.
        baseline: [N] z, for KTO without gradient.
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
