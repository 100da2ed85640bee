"""Learning from pairs of replies, one better than the other: DPO online, SPIN, SPPO."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, at_least
from selfplay.options import Count, NotNegative, Positive, Steps
from selfplay.updates.gradient_step import (
    ALIKE,
    Compare,
    GradientStep,
    GradientUpdate,
    GradNorm,
    MakeOptimizer,
    check_compare,
    check_teachers,
    check_weights,
    groups_of,
    shares,
)
from selfplay.updates.measures import by_role
from selfplay.updates.optimizers import adamw
from selfplay.updates.pairs import Pairing, Pairs, best_and_worst, demonstrated
from selfplay.updates.preferences import PairLoss, dpo, win_probabilities
from selfplay.updates.schedules import Schedule, constant
from selfplay.updates.sequence_loss import descend_on_ratios


class Pairwise(GradientUpdate):
    """One optimizer step a batch on the sum over roles of weight x mean over the role's pairs of a loss of the pair.

    A pair is of the role of its rejected turn. Without any pair nothing is learnt in a step.

    Args:
        policy: the learner.
        reference: the learner as it was before the first step, frozen.
        roles: those of the learner; None: nobody knows.
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
        roles: Sequence[str] | None = None,
        optimizer: MakeOptimizer = adamw,
        teachers: Sequence[str] = (),
        pairs: Pairing = best_and_worst,
        compare: Compare = "group",
        objective: PairLoss = dpo,
        beta: Positive = 0.1,
        refresh: Steps = 0,
        schedule: Schedule = constant,
        role_weights: Mapping[str, NotNegative] = ALIKE,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
    ) -> None:
        at_least(0, **{"update.refresh": refresh})
        check_beta(beta)
        check_teachers(teachers, getattr(pairs, "func", pairs) is demonstrated)
        check_compare(compare)
        check_weights(role_weights, roles)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.teachers = tuple(teachers)
        self.pairs, self.compare, self.objective = pairs, compare, objective
        self.beta, self.refresh = beta, refresh

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        reference = self.gradient_step.logprobs(self.magnet, batch)
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
        self.move_magnet(self.refresh)
        implied = self.beta * ratios
        metrics |= rate | by_role(batch, reference) | _told(batch, pairs, implied[chosen], implied[rejected])
        return Learnt(metrics, torch.zeros(len(batch)).index_add(0, used, pull))


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
