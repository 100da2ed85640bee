"""KTO: learning from single replies that are labelled desirable or undesirable."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError, at_least
from selfplay.options import Count, NotNegative, Number, Positive, Steps
from selfplay.updates.advantages import centred
from selfplay.updates.gradient_step import (
    ALIKE,
    GradientStep,
    GradientUpdate,
    GradNorm,
    MakeOptimizer,
    check_weights,
    not_negative,
)
from selfplay.updates.groups import ROUNDING, Compare, check_compare, groups_of, same_prompts
from selfplay.updates.measures import by_role, roles_of
from selfplay.updates.optimizers import adamw
from selfplay.updates.pairwise import check_beta
from selfplay.updates.preferences import kl_baseline, kto
from selfplay.updates.schedules import Schedule, constant
from selfplay.updates.sequence_loss import descend_on_ratios, log_ratios


class Label(Protocol):
    """(batch, groups [B]) -> [B], above 0 for a desirable turn, below for an undesirable one, 0 for neither."""

    def __call__(self, batch: Batch, groups: Tensor) -> Tensor: ...


def above_mean(batch: Batch, groups: Tensor) -> Tensor:
    """Payoff minus group mean; 0 if the difference is within float32 rounding. [B]

    Labels are signs, so rounding must not label a turn whose payoff equals the mean.
    """
    labels = centred(batch.payoffs, groups, (), None if batch.sampled else batch.weights)
    size = torch.zeros(int(groups.max()) + 1).scatter_reduce(0, groups, batch.payoffs.abs(), "amax")[groups]
    return torch.where(labels.abs() > ROUNDING * size, labels, 0.0)


def above(batch: Batch, groups: Tensor, threshold: Number) -> Tensor:
    """Payoff minus a threshold. [B]

    Args:
        threshold: turns with a higher payoff are desirable, those with a lower one undesirable.
    """
    return batch.payoffs - threshold


class KTO(GradientUpdate):
    """One optimizer step per batch on the sum over roles of weight x mean KTO loss of the role's labelled turns.

    KTO (2402.01306). As in the paper and in TRL, the baseline z, which stands for KL(pi || pi_ref), is
    max(0, mean log-ratio of mismatched pairs): prompts of the role, each with the reply to another prompt. Rows are
    sorted by prompt, and replies are shifted by the number of rows of the most frequent prompt; if that is more than
    half of the rows, some pairs are matched. z has no gradient and is computed per role and step.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen.
        roles: the learner's roles; None if unknown.
        optimizer: parameters -> optimizer.
        label: labels turns as desirable or undesirable; turns that are neither are dropped and counted as ties.
        compare: the turns that `label` compares: "group" (of the game) or "prompt" (same role and prompt).
        beta: reward per nat of log-ratio; smaller values let the policy move further from the reference.
        desirable, undesirable: lambda_D and lambda_U, the weights of the two classes.
        refresh: steps between updates of the reference to the current policy; 0 keeps the initial one.
        schedule, role_weights, micro_batch, max_grad_norm: see `selfplay.updates.gradient_step.GradientStep`.
    """

    replays = True

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        roles: Sequence[str] | None = None,
        optimizer: MakeOptimizer = adamw,
        label: Label = above_mean,
        compare: Compare = "group",
        beta: Positive = 0.1,
        desirable: NotNegative = 1.0,
        undesirable: NotNegative = 1.0,
        refresh: Steps = 0,
        schedule: Schedule = constant,
        role_weights: Mapping[str, NotNegative] = ALIKE,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
    ) -> None:
        at_least(0, **{"update.refresh": refresh})
        not_negative(**{"update.desirable": desirable, "update.undesirable": undesirable})
        if desirable == undesirable == 0:
            raise SelfplayError("update.desirable and update.undesirable are 0, so nothing could be learnt; raise one")
        check_beta(beta)
        check_compare(compare)
        check_weights(role_weights, roles)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.label, self.compare, self.beta, self.refresh = label, compare, beta, refresh
        self.desirable, self.undesirable = desirable, undesirable

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        reference = self.gradient_step.logprobs(self.magnet, batch)
        labels = self.label(batch, groups_of(batch, self.compare))
        used = labels.nonzero()[:, 0]
        part, good = batch.rows(used), labels[used] > 0
        baselines = {role: self._baseline(batch, role) for role in sorted(set(batch.roles))}
        z = torch.tensor([baselines[role] for role in part.roles])
        weights = self.gradient_step.weights(part) * torch.where(good, self.desirable, self.undesirable)

        def losses(ratios: Tensor) -> tuple[Tensor, Tensor]:
            return kto(ratios, good, z, self.beta), weights

        metrics, ratios, pull = descend_on_ratios(self.gradient_step, part, reference[used], losses)
        self.move_magnet(self.refresh)
        counts = {"ties": float(len(batch) - len(used))} | {f"{r}/kl_baseline": value for r, value in baselines.items()}
        metrics |= rate | by_role(batch, reference) | counts | self._rewards(part, good, ratios)
        return Learnt(metrics, torch.zeros(len(batch)).index_add(0, used, pull))

    def _baseline(self, batch: Batch, role: str) -> float:
        """The baseline z of a role."""
        pairs = mismatched(batch.rows(torch.tensor([i for i, r in enumerate(batch.roles) if r == role])))
        ratios = log_ratios(self.gradient_step, pairs, self.gradient_step.logprobs(self.magnet, pairs))
        return float(kl_baseline(ratios, pairs.weights))

    def _rewards(self, part: Batch, good: Tensor, ratios: Tensor) -> dict[str, float]:
        """TRL's metrics of the implicit rewards by role, before the step."""
        out: dict[str, float] = {}
        for role in roles_of(part):
            mine = torch.tensor([r == role for r in part.roles])
            kinds = {"chosen": self.beta * ratios[mine & good], "rejected": self.beta * ratios[mine & ~good]}
            out |= {f"{role}/rewards/{kind}": float(found.mean()) for kind, found in kinds.items() if len(found)}
            if all(len(found) for found in kinds.values()):
                out[f"{role}/rewards/margins"] = float(kinds["chosen"].mean() - kinds["rejected"].mean())
        return out


def mismatched(batch: Batch) -> Batch:
    """Pair each prompt with the reply to another prompt, as far as possible; see `KTO`."""
    numbers = same_prompts(batch)
    order = numbers.argsort(stable=True)
    turned = order.roll(int(numbers.bincount().max()))
    return replace(batch.rows(turned), prompts=tuple(batch.prompts[row] for row in order.tolist()))
