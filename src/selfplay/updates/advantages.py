"""Advantages: payoffs minus a baseline.

An advantage maps payoffs [B], groups [B] int64, roles (B names) and weights [B] (how many times each turn counts; None
for sampled turns) to [B]. All except `RoleBaseline` are pure functions that compare turns within a group.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated, Protocol, runtime_checkable

import torch
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.options import Range
from selfplay.updates.preferences import win_probabilities

TINY = 1e-300  # guards the mean of a group of total weight 0


class Advantage(Protocol):
    """(payoffs [B], groups [B], roles, weights [B]) -> [B]."""

    def __call__(self, payoffs: Tensor, groups: Tensor, roles: Sequence[str], weights: Tensor | None) -> Tensor: ...


@runtime_checkable
class Remembering(Protocol):
    """An advantage with state that checkpoints must store."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


def group_mean(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the mean payoff of each turn's group. payoffs, weights [B] float, groups [B] int64."""
    return (payoffs.double() - _deviations(payoffs, groups, weights)).to(payoffs.dtype)


def group_std(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Tensor:
    """[B] the standard deviation of the payoffs in each turn's group; exactly 0 if they are all equal.

    The denominator is n - 1 for sampled turns, and the sum of the weights for weighted ones. The weighted value is the
    limit of infinitely many samples for groups across the batch, but not for groups within an episode, whose size n
    stays fixed.
    """
    return _spread(payoffs, groups, weights).to(payoffs.dtype)


def centred(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] payoff minus the group mean: both advantages of Language Self-Play (2509.07414, equations 2-3).

    Exactly 0 if all payoffs of a group are equal: deviations from the group's first payoff are averaged in float64.
    """
    return _deviations(payoffs, groups, weights).to(payoffs.dtype)


def standardised(
    payoffs: Tensor,
    groups: Tensor,
    roles: Sequence[str] = (),
    weights: Tensor | None = None,
    epsilon: Annotated[float, Range(0, 1000)] = 1e-4,
) -> Tensor:
    """[B] payoff minus group mean, divided by standard deviation + epsilon (GRPO, 2402.03300, section 4.1.2).

    Exactly 0 if all payoffs of a group are equal, even with epsilon 0.

    Args:
        epsilon: added to the standard deviation; the default is TRL's.
    """
    deviations, spread = _deviations(payoffs, groups, weights), _spread(payoffs, groups, weights)
    scale = torch.where(spread > 0, spread + epsilon, 1.0)
    return (torch.where(spread > 0, deviations, 0.0) / scale).to(payoffs.dtype)


def leave_one_out(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] payoff minus the mean of the other turns in its group, 0 in a group of one (RLOO, 2402.14740).

    This equals n / (n - 1) x `centred`, which makes the gradient estimate unbiased. For weighted turns, the limit
    n -> infinity, it is `centred` itself.
    """
    deviations = _deviations(payoffs, groups, weights)
    if weights is None:
        counts = _sums(torch.ones_like(deviations), groups)[groups]
        deviations = deviations * counts / (counts - 1).clamp(min=1)
    return deviations.to(payoffs.dtype)


def preferred(payoffs: Tensor, groups: Tensor, roles: Sequence[str] = (), weights: Tensor | None = None) -> Tensor:
    """[B] P(the turn beats a turn of its group) - 1/2, under the Bradley-Terry model of the payoffs.

    The factor P(y > y') - 1/2 of Nash-MD's policy gradient (2312.00886), averaged over the group's y'.
    """
    return win_probabilities(payoffs, groups, weights) - 0.5


class RoleBaseline:
    """Payoff minus a running mean of the role's payoffs, regardless of groups (SPIRAL, 2506.24119).

    A = r - b_role, then b_role <- decay x b_role + (1 - decay) x the role's mean in the batch, from b_role = 0. One
    baseline per role removes the advantage of position that one role may have in a zero-sum game.

    Args:
        decay: in [0, 1); 0 uses only the last batch.
    """

    def __init__(self, decay: Annotated[float, Range(0, 1, below=True)] = 0.95) -> None:
        if not 0 <= decay < 1:
            raise SelfplayError(f"update.advantage.decay is {decay}; choose a number of at least 0 and below 1")
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
    """[B] float64 payoff minus the group mean.

    Subtracting the group's first payoff first makes the result exactly 0 for equal payoffs, whose rounded mean could
    differ from them.
    """
    _same_rows(payoffs, groups)
    exact, rows = payoffs.double(), torch.arange(len(payoffs))
    first = torch.full((int(groups.max()) + 1,), len(payoffs)).scatter_reduce(0, groups, rows, "amin")
    shifted = exact - exact[first[groups]]
    w = torch.ones_like(exact) if weights is None else weights.double()
    return shifted - (_sums(w * shifted, groups) / _sums(w, groups).clamp(min=TINY))[groups]


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
    assert values.shape == groups.shape and values.ndim == 1, f"one group per payoff: {values.shape}, {groups.shape}"
