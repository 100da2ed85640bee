"""Strategies of data selection: pure functions of what is known of a pool -> the weight of each question.

Nature draws each question with a probability proportional to its weight, with replacement.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.options import Count, Name, Positive, Range, Seed
from selfplay.selection.facility import greedy, taylor_softmax
from selfplay.selection.pool import PoolView

Share = Annotated[float, Range(0, 1, above=True)]


class Strategy(Protocol):
    """What is known of a pool of N questions -> [N] weights, at least 0 and not all 0."""

    def __call__(self, pool: PoolView) -> Tensor: ...


def uniform(pool: PoolView) -> Tensor:
    """Every question alike: the control for the other strategies. [N]"""
    return torch.ones(len(pool))


def lowest(pool: PoolView, share: Share = 0.2, who: Name = "reference") -> Tensor:
    """The questions whose demonstrations surprise a policy least, and no others. [N]

    The perplexity filter of POINTS (2409.04828), which keeps the lowest fifth: noisy demonstrations surprise more.

    Args:
        share: of the questions that are kept.
        who: the policy that is surprised: reference, learner or another player.
    """
    return _first(pool.surprisal(who), share)


def highest(pool: PoolView, share: Share = 0.2, who: Name = "reference") -> Tensor:
    """The questions whose demonstrations surprise a policy most, and no others. [N]

    Args:
        share: of the questions that are kept.
        who: the policy that is surprised: reference, learner or another player.
    """
    return _first(-pool.surprisal(who), share)


def focus(
    pool: PoolView, length: Count = 20, discard: Sequence[float] = (0.0, 0.5, 0.0, 0.7), who: Name = "learner"
) -> Tensor:
    """Learn, Focus, Review: phases with all questions alternate with phases without the easiest ones. [N]

    LFR (2409.06131), whose phases discard 0, 50 %, 0 and 70 % of the blocks with the lowest perplexity. It logs a
    block's perplexity when it trains on it; here all are measured when a phase begins, so `every` must be `length`.

    Args:
        length: steps of a phase.
        discard: for each phase, the share of the questions that are left out; after the last, the first begins again.
        who: the policy that finds a question easy.

    Raises:
        SelfplayError: there is no phase, or a share is not from 0 to below 1.
    """
    if not discard or not all(0 <= share < 1 for share in discard):
        raise SelfplayError(
            f"the phases discard {list(discard)} of the questions; give one share per phase, each from 0 to below 1"
        )
    left = 1.0 - discard[(pool.step - 1) // length % len(discard)]
    return uniform(pool) if left == 1.0 else _first(-pool.surprisal(who), left)


def facility(
    pool: PoolView,
    share: Share = 0.25,
    temperature: Positive = 1.0,
    parts: Count = 1,
    who: Name = "reference",
    seed: Seed = 0,
) -> Tensor:
    """A random subset of questions that represent all of them in a policy's embedding space. [N]

    INGENIOUS (2305.06677): in each of several random parts of the pool, the gain of each question in the greedy order
    of facility location (s = cosine similarity, negative ones count as 0); gains become probabilities by a Taylor
    softmax; a subset is drawn by them without replacement.

    Args:
        share: size of the subset, of the questions of each part.
        temperature: of the Taylor softmax; larger is more uniform.
        parts: number of random parts; the time is quadratic in the size of a part.
        who: the policy whose hidden states are averaged.
        seed: of the parts and, with the step, of the subset.

    Raises:
        SelfplayError: there are more parts than questions.
    """
    if parts > len(pool):
        raise SelfplayError(f"the pool has {len(pool)} questions, but parts is {parts}; lower it")
    states, weights = pool.embed(who), torch.zeros(len(pool))
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    drawing = torch.Generator().manual_seed(seed * 1_000_003 + pool.step)
    for part in torch.tensor_split(order, parts):
        similarity = (states[part] @ states[part].T).clamp(min=0.0)
        chances = taylor_softmax(greedy(similarity)[1], temperature)
        count = max(1, round(share * len(part)))
        weights[part[torch.multinomial(chances, count, replacement=False, generator=drawing)]] = 1.0
    return weights


def least_solved(pool: PoolView, mix: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
    """With probability `mix` one of the least solved questions, else one of the least tried. [N]

    The picker of problems in arithmetic self-training (2407.08400). A question that was never tried counts as not
    solved.

    Args:
        mix: probability of a least solved question.
    """
    rate = pool.solved / pool.tried.clamp(min=1.0)
    hardest, newest = rate == rate.min(), pool.tried == pool.tried.min()
    return mix * hardest / hardest.sum() + (1.0 - mix) * newest / newest.sum()


def _first(values: Tensor, share: float) -> Tensor:
    """Weight 1 for the share of the items with the smallest values, at least one; the first on ties."""
    count = max(1, round(share * len(values)))
    weights = torch.zeros(len(values))
    weights[values.argsort(stable=True)[:count]] = 1.0
    return weights
