"""Facility location: subsets whose members represent all items (INGENIOUS, 2305.06677).

f(S) = sum over all items i of max over j in S of s_ij, with similarities s >= 0, is monotone and submodular, so the
greedy subset of each size has at least 1 - 1/e of the largest value (Nemhauser, Wolsey and Fisher, 1978).
"""

import heapq

import torch
from torch import Tensor

EXACT = 2.0**36


def greedy(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Order all items by the greedy rule: each next item is the one that raises f most, the first on ties.

    A gain never grows as the subset does, so only items whose last known gain is the largest are computed again (lazy
    evaluation; Minoux, 1978). Similarities are rounded to multiples of 2^-36, so that sums of up to 10^5 of them are
    exact and ties do not depend on the order of a sum.

    Args:
        similarity: [N, N], symmetric, at least 0.

    Returns:
        [N] int64 the items in the order of their choice, and [N] float64 the gain of each item at its choice, indexed
        by item.
    """
    assert similarity.ndim == 2 and similarity.shape[0] == similarity.shape[1], f"[N, N], got {tuple(similarity.shape)}"
    s = (similarity.double() * EXACT).round() / EXACT
    covered = torch.zeros(len(s), dtype=torch.float64)
    heap = [(-float(gain), item) for item, gain in enumerate(s.sum(0))]
    heapq.heapify(heap)
    order, gains = [], torch.zeros(len(s), dtype=torch.float64)
    while heap:
        _, item = heapq.heappop(heap)
        gain = float((s[:, item] - covered).clamp(min=0.0).sum())
        if heap and (-gain, item) > heap[0]:
            heapq.heappush(heap, (-gain, item))
            continue
        order.append(item)
        gains[item] = gain
        covered = torch.maximum(covered, s[:, item])
    return torch.tensor(order, dtype=torch.int64), gains


def taylor_softmax(gains: Tensor, temperature: float = 1.0) -> Tensor:
    """p_i proportional to 1 + g_i / t + (g_i / t)^2 / 2, the second-order Taylor softmax of INGENIOUS. [N] -> [N]"""
    x = gains.double() / temperature
    weights = 1.0 + x + x**2 / 2.0
    return weights / weights.sum()
