"""Advantages: pay-offs compared within their group. Pure functions of [B] tensors."""

import torch
from torch import Tensor


def group_mean(payoffs: Tensor, groups: Tensor) -> Tensor:
    """[B] the mean pay-off of each turn's own group. payoffs [B] float, groups [B] int64."""
    return _per_group(payoffs, groups)[groups]


def group_std(payoffs: Tensor, groups: Tensor) -> Tensor:
    """[B] the standard deviation (n - 1 in the denominator; 0 for a group of one) of each turn's own group."""
    squares = _sums((payoffs - group_mean(payoffs, groups)) ** 2, groups)
    counts = _sums(torch.ones_like(payoffs), groups)
    return (squares / (counts - 1).clamp(min=1)).sqrt()[groups]


def centred(payoffs: Tensor, groups: Tensor) -> Tensor:
    """[B] pay-off minus the mean of its group: both advantages of Language Self-Play (2509.07414, equations 2-3)."""
    return payoffs - group_mean(payoffs, groups)


def standardised(payoffs: Tensor, groups: Tensor, epsilon: float = 1e-4) -> Tensor:
    """[B] pay-off minus mean, over standard deviation plus epsilon (GRPO, 2402.03300, section 4.1.2; TRL's epsilon)."""
    return centred(payoffs, groups) / (group_std(payoffs, groups) + epsilon)


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    _same_rows(values, groups)
    return torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)


def _per_group(values: Tensor, groups: Tensor) -> Tensor:
    return _sums(values, groups) / _sums(torch.ones_like(values), groups).clamp(min=1)


def _same_rows(values: Tensor, groups: Tensor) -> None:
    assert values.shape == groups.shape and values.ndim == 1, f"one group a pay-off: {values.shape}, {groups.shape}"
