"""Learning from pairs of a better and a worse reply: online DPO, IPO, paired KTO, SPIN, SPPO."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, at_least
from selfplay.options import Count, NotNegative, Positive, Steps
from selfplay.updates.gradient_step import (
    ALIKE,
    GradientStep,
    GradientUpdate,
    GradNorm,
    MakeOptimizer,
    check_teachers,
    check_weights,
    shares,
)
from selfplay.updates.groups import Compare, check_compare, groups_of
from selfplay.updates.measures import by_role
from selfplay.updates.optimizers import adamw
from selfplay.updates.pairs import Pairing, Pairs, best_and_worst, demonstrated
from selfplay.updates.preferences import PairedReplies, PairLoss, dpo, win_probabilities
from selfplay.updates.schedules import Schedule, constant
from selfplay.updates.sequence_loss import descend_on_ratios


class Pairwise(GradientUpdate):
    """One optimizer step per batch on the sum over roles of weight x mean loss of the role's pairs.

    A pair belongs to the role of its rejected turn. A step without pairs changes nothing.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen.
        roles: the learner's roles; None if unknown.
        optimizer: parameters -> optimizer.
        teachers: names of other players whose turns are part of the batch.
        pairs: selects pairs of turns, see `selfplay.updates.pairs`.
        compare: the turns that are paired: "group" (of the game) or "prompt" (same role and prompt).
        objective: loss of the pairs of a role, see `selfplay.updates.preferences`.
        beta: reward per nat of log-ratio (IPO's tau); smaller values let the policy move further from the reference.
        refresh: steps between updates of the reference to the current policy, the previous iterate of self-play; 0
            keeps the initial one.
        schedule, role_weights, micro_batch, max_grad_norm: see `selfplay.updates.gradient_step.GradientStep`.
    """

    replays = True

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
        used, position = torch.unique(torch.cat([pairs.chosen, pairs.rejected]), return_inverse=True)
        chosen, rejected = position[: len(pairs)], position[len(pairs) :]
        roles = [batch.roles[row] for row in pairs.rejected.tolist()]
        weights = pairs.weights * shares(roles, pairs.weights, self.gradient_step.role_weights)
        lengths = batch.mask.sum(1)

        def losses(ratios: Tensor) -> tuple[Tensor, Tensor]:
            compared = PairedReplies(
                ratios[chosen],
                ratios[rejected],
                wins[pairs.chosen],
                wins[pairs.rejected],
                lengths[pairs.chosen],
                lengths[pairs.rejected],
                pairs.weights,
            )
            each = torch.zeros_like(ratios[chosen])
            for role in sorted(set(roles)):
                mine = torch.tensor([i for i, name in enumerate(roles) if name == role])
                each[mine] = self.objective(compared.rows(mine), self.beta)
            return each, weights

        metrics, ratios, pull = descend_on_ratios(self.gradient_step, batch.rows(used), reference[used], losses)
        self.move_magnet(self.refresh)
        implicit = self.beta * ratios
        metrics |= rate | by_role(batch, reference) | _metrics(batch, pairs, implicit[chosen], implicit[rejected])
        return Learnt(metrics, torch.zeros(len(batch)).index_add(0, used, pull))


def check_beta(beta: float) -> None:
    """Raise SelfplayError unless beta is positive and finite."""
    if not isinstance(beta, int | float) or not 0 < beta < float("inf"):
        raise SelfplayError(f"update.beta is {beta}, but it must be a number above 0; 0.1 is usual")


def _metrics(batch: Batch, pairs: Pairs, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """Number of pairs and ties, and TRL's metrics of the implicit rewards [P] by role, before the step."""
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
