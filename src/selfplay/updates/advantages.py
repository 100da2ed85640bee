"""Advantages: what a turn earned beyond what was to be expected.

An advantage is called with pay-offs [B], groups [B] int64, the roles (B names) and how often each turn counts [B], or
None where turns were drawn; it gives [B]. All but `RoleBaseline` are pure functions that compare within a group.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated, Protocol, runtime_checkable

import torch
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.options import Range
from selfplay.updates.preferences import win_probabilities

TINY = 1e-300  # a group that cannot be has no mean


class Advantage(Protocol):
    """(pay-offs [B], groups [B], roles, weights [B]) -> [B]."""

    def __call__(self, payoffs: Tensor, groups: Tensor, roles: Sequence[str], weights: Tensor | None) -> Tensor: ...


@runtime_checkable
class Remembering(Protocol):
    """An advantage with a memory, which a checkpoint must hold."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


def group_mean(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the mean pay-off of each turn's own group. payoffs, weights [B] float, groups [B] int64."""
    return (payoffs.double() - _deviations(payoffs, groups, weights)).to(payoffs.dtype)


def group_std(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the standard deviation of each turn's own group; 0 for a group of one and where all are paid alike.

    Its denominator is n - 1 where turns were drawn, the sum of the weights (a population's) where they are weighed:
    exact for groups across the batch; a group within an episode is of so many turns however many episodes are drawn.
    """
    return _spread(payoffs, groups, weights).to(payoffs.dtype)


def centred(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] pay-off minus the mean of its group: both advantages of Language Self-Play (2509.07414, equations 2-3).

    Exactly 0 where a group is paid alike, whatever it is paid: deviations are taken from the group's first pay-off and
    averaged in float64.
    """
    return _deviations(payoffs, groups, weights).to(payoffs.dtype)


def standardised(
    payoffs: Tensor,
    groups: Tensor,
    roles: Sequence[str] = (),
    weights: Tensor | None = None,
    epsilon: Annotated[float, Range(0, 1000)] = 1e-4,
) -> Tensor:
    """[B] pay-off minus mean, over standard deviation plus epsilon (GRPO, 2402.03300, section 4.1.2; TRL's epsilon).

    Exactly 0 where a group is paid alike, also with an epsilon of 0.
    """
    deviations, spread = _deviations(payoffs, groups, weights), _spread(payoffs, groups, weights)
    scale = torch.where(spread > 0, spread + epsilon, 1.0)
    return (torch.where(spread > 0, deviations, 0.0) / scale).to(payoffs.dtype)


def leave_one_out(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] pay-off minus the mean of the others of its group, 0 in a group of one (RLOO, 2402.14740).

    That is n / (n - 1) x `centred`, so that the expected gradient is that of the expected pay-off, all of it. Where
    turns are weighed, each is one of infinitely many, and the mean of the others is the mean.
    """
    deviations = _deviations(payoffs, groups, weights)
    if weights is None:
        counts = _sums(torch.ones_like(deviations), groups)[groups]
        deviations = deviations * counts / (counts - 1).clamp(min=1)
    return deviations.to(payoffs.dtype)


def preferred(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] P(the turn wins over one of its group) - 1/2, by the Bradley-Terry model of the pay-offs.

    The factor P(y > y') - 1/2 of Nash-MD's policy gradient (2312.00886), averaged over the y' that there are.
    """
    return win_probabilities(payoffs, groups, weights) - 0.5


class RoleBaseline:
    """Pay-off minus a running mean of what its role has earned, whatever the group (SPIRAL, 2506.24119).

    A = r - b_role with b_role read first; then b_role <- decay b_role + (1 - decay) x the role's mean in the batch.
    A role begins with b = 0. In a zero-sum game one role may expect to win: a baseline common to both would teach it
    that.

    Args:
        decay: from 0 (the last batch alone) to just below 1.
    """

    def __init__(self, decay: Annotated[float, Range(0, 1, below=True)] = 0.95) -> None:
        if not 0 <= decay < 1:
            raise SelfplayError(f"update.advantage.decay is {decay}; choose a number from 0 to below 1")
        self.decay = decay
        self.baseline: dict[str, float] = {}

    def __call__(self, payoffs: Tensor, groups: Tensor, roles: Sequence[str], weights: Tensor | None = None) -> Tensor:
        w = torch.ones_like(payoffs) if weights is None else weights
        expected = torch.tensor([self.baseline.get(role, 0.0) for role in roles])
        for role in sorted(set(roles)):
            mine = [i for i, r in enumerate(roles) if r == role]
            mean = fmean(payoffs[mine].tolist(), w[mine].tolist())
            self.baseline[role] = self.decay * self.baseline.get(role, 0.0) + (1 - self.decay) * mean
        return payoffs - expected

    def state_dict(self) -> dict[str, object]:
        return {"baseline": dict(self.baseline)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.baseline = dict(state["baseline"])  # type: ignore[call-overload]


def _deviations(payoffs: Tensor, groups: Tensor, weights: Tensor | None) -> Tensor:
    """[B] float64 pay-off minus the mean of its group.

    The mean of equal numbers need not be that number once rounded, so the group's first pay-off is subtracted first:
    what is paid alike deviates by exactly 0.
    """
    _same_rows(payoffs, groups)
    exact, rows = payoffs.double(), torch.arange(len(payoffs))
    first = torch.full((int(groups.max()) + 1,), len(payoffs)).scatter_reduce(0, groups, rows, "amin")
    away = exact - exact[first[groups]]
    w = torch.ones_like(exact) if weights is None else weights.double()
    return away - (_sums(w * away, groups) / _sums(w, groups).clamp(min=TINY))[groups]


def _spread(payoffs: Tensor, groups: Tensor, weights: Tensor | None) -> Tensor:
    """[B] float64, see `group_std`."""
    deviations = _deviations(payoffs, groups, weights)
    w = torch.ones_like(deviations) if weights is None else weights.double()
    squares, counts = _sums(w * deviations**2, groups), _sums(w, groups)
    return (squares / ((counts - 1).clamp(min=1) if weights is None else counts.clamp(min=TINY))).sqrt()[groups]


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    _same_rows(values, groups)
    return torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)


def _same_rows(values: Tensor, groups: Tensor) -> None:
    assert values.shape == groups.shape and values.ndim == 1, f"one group a pay-off: {values.shape}, {groups.shape}"
