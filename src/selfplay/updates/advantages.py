"""Advantages: what a turn earned beyond what was to be expected.

An advantage is called with pay-offs [B], groups [B] int64, the roles (B names) and how often each turn counts [B], or
None where turns were drawn; it gives [B]. All but `RoleBaseline` are pure functions that compare within a group.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.updates.preferences import win_probabilities

TINY = 1e-30  # a group that cannot be has no mean


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
    w = torch.ones_like(payoffs) if weights is None else weights
    return (_sums(w * payoffs, groups) / _sums(w, groups).clamp(min=TINY))[groups]


def group_std(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the standard deviation of each turn's own group; 0 for a group of one.

    Its denominator is n - 1 where turns were drawn, the sum of the weights (a population's) where they are weighed:
    exact for groups across the batch; a group within an episode is of so many turns however many episodes are drawn.
    """
    w = torch.ones_like(payoffs) if weights is None else weights
    squares, counts = _sums(w * (payoffs - group_mean(payoffs, groups, w)) ** 2, groups), _sums(w, groups)
    return (squares / ((counts - 1).clamp(min=1) if weights is None else counts.clamp(min=TINY))).sqrt()[groups]


def centred(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] pay-off minus the mean of its group: both advantages of Language Self-Play (2509.07414, equations 2-3)."""
    return payoffs - group_mean(payoffs, groups, weights)


def standardised(
    payoffs: Tensor,
    groups: Tensor,
    roles: Sequence[str] = (),
    weights: Tensor | None = None,
    epsilon: float = 1e-4,
) -> Tensor:
    """[B] pay-off minus mean, over standard deviation plus epsilon (GRPO, 2402.03300, section 4.1.2; TRL's epsilon)."""
    return centred(payoffs, groups, roles, weights) / (group_std(payoffs, groups, weights) + epsilon)


def leave_one_out(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] pay-off minus the mean of the others of its group, 0 in a group of one (RLOO, 2402.14740).

    That is n / (n - 1) x `centred`, so that the expected gradient is that of the expected pay-off, all of it. Where
    turns are weighed, each is one of infinitely many, and the mean of the others is the mean.
    """
    if weights is not None:
        return centred(payoffs, groups, roles, weights)
    counts = _sums(torch.ones_like(payoffs), groups)[groups]
    return centred(payoffs, groups) * counts / (counts - 1).clamp(min=1)


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

    def __init__(self, decay: float) -> None:
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


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    _same_rows(values, groups)
    return torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)


def _same_rows(values: Tensor, groups: Tensor) -> None:
    assert values.shape == groups.shape and values.ndim == 1, f"one group a pay-off: {values.shape}, {groups.shape}"
