"""Values as categorical distributions over a fixed support: means, and the projection of C51."""

import torch
from torch import Tensor


def expected(values: Tensor, support: Tensor) -> Tensor:
    """[..., A] the mean of each option's return; -inf where there is no option.

    Args:
        values: [..., A, N] log-probabilities over the support; plain values if N is 1, see `updates.critic`.
        support: [N].
    """
    if len(support) == 1:
        return values[..., 0]
    return (values.exp() @ support).masked_fill(values[..., 0].isneginf(), -torch.inf)


def projected(probabilities: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """[B, N] the distribution of reward + discount x return, on the support (Bellemare et al. 2017, algorithm 1).

    Each outcome is moved into the range of the support and then shared between its two neighbours such that the mean is
    unchanged.

    Args:
        probabilities: [B, N] distribution of the return.
        rewards: [B].
        discounts: [B]; 0 at the end of an episode.
        support: [N] ascending and equidistant, N at least 2.
    """
    low, high, last = support[0], support[-1], len(support) - 1
    moved = (rewards[:, None] + discounts[:, None] * support[None]).clamp(low, high)
    places = (moved - low) / (high - low) * last
    left = places.floor().clamp(max=last - 1)
    share = places - left
    left = left.long()
    found = torch.zeros_like(probabilities)
    return found.scatter_add(1, left, probabilities * (1 - share)).scatter_add(1, left + 1, probabilities * share)
