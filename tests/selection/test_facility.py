"""Greedy facility location against brute force and against the plain greedy rule."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from selfplay.selection.facility import greedy, taylor_softmax


def similar(count: int, seed: int) -> Tensor:
    states = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    states /= states.norm(dim=1, keepdim=True)
    return ((states @ states.T).clamp(min=0.0) * 2**36).round() / 2**36


def value(s: Tensor, subset: tuple[int, ...]) -> float:
    return float(s[:, list(subset)].max(1).values.sum())


def plain(s: Tensor) -> tuple[list[int], list[float]]:
    """Without lazy evaluation: every gain is computed in every round."""
    order: list[int] = []
    gains = [0.0] * len(s)
    while len(order) < len(s):
        before = value(s, tuple(order)) if order else 0.0
        gained = {j: value(s, (*order, j)) - before for j in range(len(s)) if j not in order}
        best = max(gained, key=lambda j: (gained[j], -j))
        gains[best] = gained[best]
        order.append(best)
    return order, gains


@pytest.mark.parametrize("seed", range(20))
def test_lazy_greedy_is_greedy(seed: int) -> None:
    s = similar(4 + seed, seed)
    order, gains = greedy(s)
    assert order.tolist() == plain(s)[0]
    assert gains.tolist() == pytest.approx(plain(s)[1], abs=1e-9)
    chosen = gains[order]
    assert bool((chosen[1:] <= chosen[:-1] + 1e-12).all()), "gains never grow"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [6, 10])
def test_greedy_reaches_its_share_of_the_optimum(count: int, seed: int) -> None:
    s = similar(count, 100 + seed)
    order = greedy(s)[0].tolist()
    for size in range(1, count + 1):
        best = max(value(s, subset) for subset in combinations(range(count), size))
        reached = value(s, tuple(order[:size]))
        assert (1 - 1 / math.e) * best <= reached <= best + 1e-9


def test_copies_bring_nothing() -> None:
    """Two items that are alike: the second of each pair gains 0, and both pairs are covered first."""
    s = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    order, gains = greedy(s)
    assert order.tolist() == [0, 2, 1, 3]
    assert gains.tolist() == [2.0, 0.0, 2.0, 0.0]


def test_taylor_softmax() -> None:
    assert taylor_softmax(torch.tensor([0.0, 1.0, 2.0])).tolist() == pytest.approx([2 / 17, 5 / 17, 10 / 17])
    assert taylor_softmax(torch.tensor([0.0, 2.0]), 2.0).tolist() == pytest.approx([2 / 7, 5 / 7])
