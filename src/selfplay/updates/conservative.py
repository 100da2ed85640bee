"""Conservative Q-learning: values of options from turns that anybody played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError
from selfplay.devices import sent
from selfplay.options import Count, NotNegative, Range
from selfplay.updates.categorical import expected, projected
from selfplay.updates.critic import Critic
from selfplay.updates.gradient_step import ALIKE, GradientStep, GradientUpdate, GradNorm, MakeOptimizer, check_teachers
from selfplay.updates.measures import by_role
from selfplay.updates.optimizers import adamw
from selfplay.updates.schedules import Schedule, constant
from selfplay.updates.transitions import Transitions, transitions

TARGET = "target"


class ConservativeQ(GradientUpdate):
    """Several optimizer steps per batch on TD error + alpha x (log sum_a' exp Q(s, a') - Q(s, a)).

    Conservative Q-learning (CQL, Kumar et al. 2020, arXiv 2006.04779, equation 4). The TD error is the cross-entropy
    from the projected target distribution (C51, Bellemare et al. 2017, arXiv 1707.06887), as in "Offline Q-Learning on
    Diverse Multi-Task Data" (arXiv 2211.15144); for a critic with one atom, it is the squared error. The target is
    the reward plus the discounted value of the best option of the role's next state under a frozen copy of the critic.
    Equal transitions of a batch are merged, which leaves the loss as it is.

    Args:
        policy: the learner, a critic.
        reference: the learner before the first step, frozen; used only for the KL metric.
        roles: the learner's roles; None if unknown. A teacher's turns in other roles have weight 1.
        optimizer: parameters -> optimizer.
        teachers: names of other players whose turns are part of the batch.
        alpha: weight of the conservative term, in units of the TD error per unit of return.
        discount: of the return per turn of a role.
        fits: optimizer steps per batch.
        target_every: optimizer steps between two copies of the critic.
        schedule, role_weights, micro_batch, max_grad_norm: see `selfplay.updates.gradient_step.GradientStep`.

    Raises:
        SelfplayError: the policy is not a critic.
        SelfplayError (in a step): a payoff is outside the critic's support, or the turns are not whole episodes of
            replies with options.
    """

    replays = True

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str] | None = None,
        optimizer: MakeOptimizer = adamw,
        teachers: Sequence[str] = (),
        alpha: NotNegative = 0.1,
        discount: Annotated[float, Range(0, 1)] = 1.0,
        fits: Count = 1,
        target_every: Count = 50,
        schedule: Schedule = constant,
        role_weights: Mapping[str, NotNegative] = ALIKE,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
    ) -> None:
        if not isinstance(policy, Critic):
            raise SelfplayError(
                f"update=cql learns values, but the learner ({type(policy).__name__}) has none; use player=q_table"
            )
        check_teachers(teachers, False)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.critic, self.teachers, self.alpha, self.discount = policy, tuple(teachers), alpha, discount
        self.fits, self.target_every, self.fitted = fits, target_every, 0

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        _check_payoffs(batch, self.critic.support)
        found = transitions(batch)
        weights = self.gradient_step.weights(found.turns)
        targets: Tensor | None = None
        mismatch, metrics = self._mismatch(batch), dict[str, float]()
        for _ in range(self.fits):
            if TARGET not in self.frozen or self.fitted % self.target_every == 0:
                self.frozen, targets = {TARGET: self.policy.snapshot()}, None
            targets = self._targets(found) if targets is None else targets
            metrics = self._fit(found.turns, weights, targets) | mismatch
            self.fitted += 1
        assert targets is not None
        return self._learnt(batch, found, targets, metrics | rate)

    def _fit(self, turns: Batch, weights: Tensor, targets: Tensor) -> dict[str, float]:
        """One optimizer step."""

        def losses(rows: Tensor, values: Tensor) -> Tensor:
            each, options = torch.arange(len(rows)), turns.replies[rows, 0]
            q = expected(values, sent(self.critic.support, values.device))
            error = td_errors(values[each, options], sent(targets[rows], values.device))
            return error + self.alpha * (q.logsumexp(-1) - q[each, options])

        return self.gradient_step.descend(turns, weights, losses, self.critic.values)

    def _mismatch(self, batch: Batch) -> dict[str, float]:
        """Compare the sampler of the learner's own turns with the learner, before its weights move."""
        own = batch.rows(batch.on_policy.nonzero()[:, 0])
        if not len(own):
            return {"logprob_mismatch": 0.0}
        logprobs = self.gradient_step.logprobs(self.policy, own)
        if self.gradient_step.compare is not None:
            self.gradient_step.compare(own, logprobs)
        return {"logprob_mismatch": float((logprobs - own.logprobs).abs().max())}

    @torch.no_grad()
    def _targets(self, found: Transitions) -> Tensor:
        """[U, N] the distribution of the reward plus the return of the best option that follows; a value if N is 1."""
        support, target = self.critic.support, self.frozen[TARGET]
        assert isinstance(target, Critic)
        goes_on, plain = found.places >= 0, len(support) == 1
        returns = torch.full((len(goes_on), len(support)), 0.0 if plain else 1 / len(support))
        if len(found.states):
            values = target.values(found.states).cpu()
            best = values[torch.arange(len(values)), expected(values, support).argmax(-1)]
            returns[goes_on] = (best if plain else best.exp())[found.places[goes_on]]
        discounts = self.discount * goes_on
        if plain:
            return found.rewards[:, None] + discounts[:, None] * returns
        return projected(returns, found.rewards, discounts, support)

    @torch.no_grad()
    def _learnt(self, batch: Batch, found: Transitions, targets: Tensor, metrics: dict[str, float]) -> Learnt:
        """Metrics; the advantage of a turn is the mean of its target minus Q after the step."""
        support, turns = self.critic.support, found.turns
        q = expected(self.critic.values(turns).cpu(), support)
        chosen = q[torch.arange(len(q)), turns.replies[:, 0]]
        means = targets[:, 0] if len(support) == 1 else targets @ support
        gaps, best = q.logsumexp(-1) - chosen, q.max(-1).values
        for role in dict.fromkeys(turns.roles):
            rows = torch.tensor([name == role for name in turns.roles])
            shares = turns.weights[rows] / turns.weights[rows].sum()
            metrics |= {f"{role}/q": float(best[rows] @ shares), f"{role}/gap": float(gaps[rows] @ shares)}
        own = batch.rows(batch.on_policy.nonzero()[:, 0])
        measured = by_role(own, self.gradient_step.logprobs(self.reference, own)) if len(own) else {}
        return Learnt(metrics | measured | {"transitions": float(len(turns))}, (means - chosen)[found.rows])

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "fitted": self.fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.fitted = state["fitted"]
        if self.fitted == 0:
            self.frozen = {}


def td_errors(values: Tensor, targets: Tensor) -> Tensor:
    """[B] cross-entropy of the options' distributions from the targets; the squared error of plain values.

    Args:
        values: [B, N] log-probabilities over the support; plain values if N is 1.
        targets: [B, N] probabilities; plain values if N is 1.
    """
    if values.shape[1] == 1:
        return (values - targets)[:, 0] ** 2
    return -(targets * values).sum(-1)


def _check_payoffs(batch: Batch, support: Tensor) -> None:
    """Raise SelfplayError if a payoff is outside the support, where a distribution cannot represent it."""
    if len(support) == 1:
        return
    low, high = float(support[0]), float(support[-1])
    outside = ((batch.payoffs < low - 1e-6) | (batch.payoffs > high + 1e-6)).nonzero()[:, 0]
    if len(outside):
        row = int(outside[0])
        raise SelfplayError(
            f"a turn of the role '{batch.roles[row]}' was paid {float(batch.payoffs[row]):g}, outside "
            f"player.support=[{low:g},{high:g}]; give a support that holds every payoff"
        )
