"""Learning from pairs of replies, one better than the other: DPO online, SPIN, SPPO."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, Update, at_least
from selfplay.options import Count, NotNegative, OneOf, Positive, Range, Steps
from selfplay.updates.gradient_step import (
    GradientStep,
    MakeOptimizer,
    check_compare,
    check_teachers,
    check_weights,
    groups_of,
    shares,
)
from selfplay.updates.measures import by_role
from selfplay.updates.pairs import Pairing, Pairs, demonstrated
from selfplay.updates.preferences import PairLoss, win_probabilities
from selfplay.updates.schedules import Schedule
from selfplay.updates.sequence_loss import descend_on_ratios


class Pairwise(Update):
    """One optimizer step a batch on the sum over roles of weight x mean over the role's pairs of a loss of the pair.

    A pair is of the role of its rejected turn. Without any pair nothing is learnt in a step.

    Args:
        policy: the learner.
        reference: the learner as it was before the first step, frozen.
        roles: those of the learner.
        optimizer: parameters -> optimizer.
        teachers: players beside the learner whose turns are part of the batch.
        pairs: which turns are held against each other, see `selfplay.updates.pairs`.
        compare: "group" or "prompt": within what.
        objective: see `selfplay.updates.preferences`.
        beta: how much reward a nat of log-ratio stands for; a small one lets the policy go far from the reference.
        refresh: steps after which the reference becomes the policy as it is then, the previous iterate of self-play; 0
            keeps the one of the start.
        schedule, role_weights, micro_batch, max_grad_norm: see `selfplay.updates.gradient_step.GradientStep`.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str],
        optimizer: MakeOptimizer,
        teachers: Sequence[str],
        pairs: Pairing,
        compare: Annotated[str, OneOf("group", "prompt")],
        objective: PairLoss,
        beta: Positive,
        refresh: Steps,
        schedule: Schedule,
        role_weights: Mapping[str, NotNegative],
        micro_batch: Count,
        max_grad_norm: Annotated[float, Range(0, above=True)],
    ) -> None:
        at_least(0, **{"update.refresh": refresh})
        check_beta(beta)
        check_teachers(teachers, getattr(pairs, "func", pairs) is demonstrated)
        check_compare(compare)
        check_weights(role_weights, roles)
        self.gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        self.optimizer, self.teachers = self.gradient_step.optimizer, tuple(teachers)
        self.policy, self.reference, self.refresh = policy, reference, refresh
        self.pairs, self.compare, self.objective, self.beta = pairs, compare, objective, beta

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        reference = self.gradient_step.logprobs(self.frozen.get("magnet", self.reference), batch)
        groups = groups_of(batch, self.compare)
        pairs = self.pairs(batch, groups)
        wins = win_probabilities(batch.payoffs, groups, None if batch.sampled else batch.weights)
        used, place = torch.unique(torch.cat([pairs.chosen, pairs.rejected]), return_inverse=True)
        chosen, rejected = place[: len(pairs)], place[len(pairs) :]
        weights = pairs.weights * shares(
            [batch.roles[row] for row in pairs.rejected.tolist()], pairs.weights, self.gradient_step.role_weights
        )

        def losses(ratios: Tensor) -> tuple[Tensor, Tensor]:
            both = ratios[chosen], ratios[rejected]
            return self.objective(*both, wins[pairs.chosen], wins[pairs.rejected], self.beta), weights

        metrics, ratios, pull = descend_on_ratios(self.gradient_step, batch.rows(used), reference[used], losses)
        if self.refresh and self.gradient_step.steps % self.refresh == 0:
            self.frozen = {"magnet": self.policy.snapshot()}
        implied = self.beta * ratios
        metrics |= rate | by_role(batch, reference) | _told(batch, pairs, implied[chosen], implied[rejected])
        return Learnt(metrics, torch.zeros(len(batch)).index_add(0, used, pull))

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "steps": self.gradient_step.steps}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        self.gradient_step.steps = state["steps"]  # type: ignore[assignment]


def check_beta(beta: float) -> None:
    """Raise SelfplayError unless it is a strength."""
    if not isinstance(beta, int | float) or not 0 < beta < float("inf"):
        raise SelfplayError(f"update.beta is {beta}, but it must be a number above 0; 0.1 is usual")


def _told(batch: Batch, pairs: Pairs, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """How many pairs and ties; and by role TRL's figures of the implied rewards [P], before the step."""
    out = {"pairs": float(len(pairs)), "ties": float(pairs.ties)}
    roles = [batch.roles[row] for row in pairs.rejected.tolist()]
    for role in sorted(set(roles)):
        mine = torch.tensor([r == role for r in roles])
        better, worse = chosen[mine], rejected[mine]
        out |= {
            f"{role}/rewards/chosen": float(better.mean()),
            f"{role}/rewards/rejected": float(worse.mean()),
            f"{role}/rewards/margins": float((better - worse).mean()),
            f"{role}/rewards/accuracies": float((better > worse).float().mean()),
        }
    return out
