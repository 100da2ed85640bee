"""Supervised learning on selected turns: a teacher's, or the learner's own best."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch, Learnt, Policy, SelfplayError
from selfplay.devices import sent
from selfplay.options import Count, NotNegative, Number
from selfplay.updates.aggregations import Aggregation, per_token
from selfplay.updates.gradient_step import ALIKE, GradientStep, GradientUpdate, GradNorm, MakeOptimizer, check_teachers
from selfplay.updates.groups import Compare, check_compare, groups_of
from selfplay.updates.losses import likelihood
from selfplay.updates.measures import by_role
from selfplay.updates.optimizers import adamw
from selfplay.updates.pairs import best_and_worst
from selfplay.updates.schedules import Schedule, constant


class Keep(Protocol):
    """(batch, groups [B]) -> [B] bool, the turns to learn from; or [B] float, how many times to learn from each."""

    def __call__(self, batch: Batch, groups: Tensor) -> Tensor: ...


def off_policy(batch: Batch, groups: Tensor) -> Tensor:
    """The turns of teachers. [B]"""
    return ~batch.on_policy


def best(batch: Batch, groups: Tensor) -> Tensor:
    """The turn with the highest payoff in each group (the first on ties); none if all payoffs are equal. [B]

    RAFT (2304.06767): best of K.
    """
    return _at(best_and_worst(batch, groups).chosen, len(batch))


def above(batch: Batch, groups: Tensor, threshold: Number) -> Tensor:
    """The turns whose payoff exceeds a threshold. [B]

    Rejection-sampling fine-tuning (RFT, 2308.01825; ReST-EM, 2312.06585), where payoffs measure correctness.

    Args:
        threshold: payoffs must be strictly greater.
    """
    return batch.payoffs > threshold


def paid(batch: Batch, groups: Tensor) -> Tensor:
    """Each turn as many times as its payoff says, and none that lost. [B]"""
    return batch.payoffs.clamp(min=0.0)


def balanced(batch: Batch, groups: Tensor, most: Count = 32, reuse: Count = 4, threshold: Number = 0.5) -> Tensor:
    """How many times each turn is learnt from: right turns up to `reuse` times, a group up to `most` times in all. [B]

    A group of R right turns is used min(most, R x reuse) times, and its right turns alike, to within 1. The supervised
    baseline of "Self-training Language Models for Arithmetic Reasoning" (2407.08400).

    Args:
        most: maximum number of uses of a group.
        reuse: maximum number of uses of a turn.
        threshold: a turn is right if its payoff is higher.
    """
    times = torch.zeros(len(batch))
    for group in sorted(set(groups.tolist())):
        rows = ((groups == group) & (batch.payoffs > threshold)).nonzero()[:, 0]
        if len(rows):
            uses, more = divmod(min(most, reuse * len(rows)), len(rows))
            times[rows] = uses + (torch.arange(len(rows)) < more).float()
    return times


class Imitation(GradientUpdate):
    """One optimizer step per batch on the sum over roles of weight x mean -log pi of the kept turns.

    A turn that is kept with a weight counts that many times. A step in which no turn is kept changes nothing.

    Args:
        policy: the learner.
        reference: the learner before the first step, frozen; used only for the KL metric.
        roles: the learner's roles; None if unknown. A teacher's turns in other roles have weight 1.
        optimizer: parameters -> optimizer.
        teachers: names of other players whose turns are part of the batch.
        keep: selects the turns to learn from, or weighs them.
        compare: the turns that `keep` compares: "group" (of the game) or "prompt" (same role and prompt).
        aggregation: token weights, see `selfplay.updates.aggregations`.
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
        keep: Keep = best,
        compare: Compare = "group",
        aggregation: Aggregation = per_token,
        schedule: Schedule = constant,
        role_weights: Mapping[str, NotNegative] = ALIKE,
        micro_batch: Count = 384,
        max_grad_norm: GradNorm = 1.0,
    ) -> None:
        check_compare(compare)
        check_teachers(teachers, getattr(keep, "func", keep) is off_policy)
        gradient_step = GradientStep(policy, roles, optimizer, schedule, role_weights, micro_batch, max_grad_norm)
        super().__init__(policy, reference, gradient_step)
        self.teachers = tuple(teachers)
        self.keep, self.compare, self.aggregation = keep, compare, aggregation

    def step(self, batch: Batch) -> Learnt:
        rate = self.gradient_step.begin()
        times = _times(self.keep(batch, groups_of(batch, self.compare)))
        rows = (times * batch.weights).nonzero()[:, 0]
        part = batch.rows(rows)
        part = replace(part, weights=part.weights * times[rows])

        def losses(rows: Tensor, logprobs: Tensor) -> Tensor:
            return likelihood(logprobs, sent(part.mask[rows, : logprobs.shape[1]], logprobs.device))

        weights = self.gradient_step.weights(part) * self.aggregation(part)
        metrics = self.gradient_step.descend(part, weights, losses)
        own = batch.rows(batch.on_policy.nonzero()[:, 0])
        measured = by_role(own, self.gradient_step.logprobs(self.reference, own)) if len(own) else {}
        metrics |= rate | measured | {"kept": float(len(part)), "tokens/kept": float(part.mask.sum())}
        return Learnt(metrics, times)


def _times(kept: Tensor) -> Tensor:
    """[B] float32, how many times each turn counts.

    Raises:
        SelfplayError: a weight is negative or not finite.
    """
    times = kept.float()
    if bool((wrong := ~(times.isfinite() & (times >= 0))).any()):
        raise SelfplayError(
            f"update.keep gave a turn the weight {float(times[wrong][0]):g}; it must give finite weights of at least 0"
        )
    return times


def _at(rows: Tensor, count: int) -> Tensor:
    """[count] bool, True at the given rows."""
    found = torch.zeros(count, dtype=torch.bool)
    found[rows] = True
    return found
