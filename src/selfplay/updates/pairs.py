"""Pairings of replies: pure functions (batch, groups [B]) -> pairs of row numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from selfplay.core import Batch
from selfplay.options import Count, Number, Positive
from selfplay.updates.groups import ROUNDING, same_prompts


@dataclass(frozen=True)
class Pairs:
    """P pairs of turns.

    Attributes:
        chosen, rejected: [P] int64 row numbers.
        weights: [P] float32 weights of the pairs.
        ties: number of pairs (or of groups, see the pairing) left out because payoffs are equal or differ too little.
    """

    chosen: Tensor
    rejected: Tensor
    weights: Tensor
    ties: int

    def __len__(self) -> int:
        return len(self.chosen)


class Pairing(Protocol):
    """(batch, groups [B]) -> pairs."""

    def __call__(self, batch: Batch, groups: Tensor) -> Pairs: ...


def best_and_worst(batch: Batch, groups: Tensor) -> Pairs:
    """The turns with the highest and lowest payoff of each group, the first on ties (SPPO, eva).

    A group with equal payoffs counts as a tie.
    """
    found, ties = [], 0
    for rows in _groups(groups):
        paid = batch.payoffs[rows]
        best, worst = int(paid.argmax()), int(paid.argmin())
        if paid[best] > paid[worst]:
            found.append((int(rows[best]), int(rows[worst])))
        else:
            ties += 1
    return _pairs(batch, found, ties)


def winners_and_losers(batch: Batch, groups: Tensor) -> Pairs:
    """Each turn of a group with each turn of lower payoff; equal payoffs count as a tie."""
    found, ties = [], 0
    for rows in _groups(groups):
        paid = batch.payoffs[rows]
        won = (paid[:, None] > paid[None]).nonzero()
        found += [(int(rows[i]), int(rows[j])) for i, j in won.tolist()]
        ties += len(rows) * (len(rows) - 1) // 2 - len(won)
    return _pairs(batch, found, ties)


def apart(batch: Batch, groups: Tensor, gap: Positive = 2.0) -> Pairs:
    """Each turn of a group with each turn whose payoff is lower by at least `gap`; all others count as ties (LANCE).

    Args:
        gap: the least difference; one that falls short by rounding of float32 counts. LANCE (2412.15151) has 2 of 10.
    """
    found, ties = [], 0
    for rows in _groups(groups):
        paid = batch.payoffs[rows].double()
        margin = paid[:, None] - paid[None]
        won = ((margin >= gap - ROUNDING * paid.abs().max()) & (margin > 0)).nonzero()
        found += [(int(rows[i]), int(rows[j])) for i, j in won.tolist()]
        ties += len(rows) * (len(rows) - 1) // 2 - len(won)
    return _pairs(batch, found, ties)


def balanced(batch: Batch, groups: Tensor, most: Count = 32, reuse: Count = 4, threshold: Number = 0.5) -> Pairs:
    """Right turns of a group, each with up to `reuse` wrong ones: up to `most` pairs, which use all turns alike.

    A group of R right turns gives min(most, R x reuse) pairs. Numbers of uses differ by at most 1 among its right
    turns, and by at most 1 among its wrong ones. A pair occurs twice only if all pairs occur. A group without right or
    without wrong turns counts as a tie. After "Self-training Language Models for Arithmetic Reasoning" (2407.08400),
    which chooses at random and does not balance the wrong turns.

    Args:
        most: maximum number of pairs of a group.
        reuse: maximum number of pairs with the same right turn.
        threshold: a turn is right if its payoff is higher, else wrong.
    """
    found, ties = [], 0
    for rows in _groups(groups):
        is_right = batch.payoffs[rows] > threshold
        right, wrong = rows[is_right].tolist(), rows[~is_right].tolist()
        if not right or not wrong:
            ties += 1
            continue
        cycle = lcm(len(right), len(wrong))  # pairs (k mod R, k mod W) repeat after so many, so each cycle is shifted
        found += [
            (right[k % len(right)], wrong[(k + k // cycle) % len(wrong)]) for k in range(min(most, reuse * len(right)))
        ]
    return _pairs(batch, found, ties)


def bradley_terry(batch: Batch, groups: Tensor) -> Pairs:
    """All ordered pairs of turns in a group, weighted by their probability under the Bradley-Terry model.

    The weight sigmoid(r - r') gives the expectation over a judge that follows this model. There are no ties.
    """
    found = [(i, j) for rows in _groups(groups) for i in rows.tolist() for j in rows.tolist() if i != j]
    pairs = _pairs(batch, found, 0)
    probabilities = torch.sigmoid(batch.payoffs[pairs.chosen] - batch.payoffs[pairs.rejected])
    return Pairs(pairs.chosen, pairs.rejected, pairs.weights * probabilities, 0)


def demonstrated(batch: Batch, groups: Tensor) -> Pairs:
    """Each reply of a teacher (chosen) with each reply of the learner to the same prompt (rejected); SPIN."""
    seen = same_prompts(batch)
    found = [
        (int(i), int(j))
        for rows in _groups(seen)
        for i in rows[~batch.on_policy[rows]]
        for j in rows[batch.on_policy[rows]]
    ]  # fmt: skip
    return _pairs(batch, found, 0)


def _groups(groups: Tensor) -> Iterator[Tensor]:
    """Row numbers of each group of two or more turns."""
    for group in sorted(set(groups.tolist())):
        rows = (groups == group).nonzero()[:, 0]
        if len(rows) > 1:
            yield rows


def _pairs(batch: Batch, found: list[tuple[int, int]], ties: int) -> Pairs:
    rows = torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
    weights = batch.weights[rows[:, 0]] * batch.weights[rows[:, 1]]
    there = weights > 0  # products of small probabilities may underflow
    return Pairs(rows[there, 0], rows[there, 1], weights[there], ties)
