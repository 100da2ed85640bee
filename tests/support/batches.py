"""A batch small enough to be worked by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfplay.core import Batch
from selfplay.updates.preferences import PairedReplies


def batch(roles: tuple[str, ...] = ("a", "b", "b"), payoffs: Sequence[float] = (1.0, 2.0, 6.0)) -> Batch:
    """Three turns: tokens 0 1 / 2 / 1 1 0, with sampler's log-probs -1, -2, -3 for tokens 0, 1, 2."""
    replies = torch.tensor([[0, 1, 0], [2, 0, 0], [1, 1, 0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    logprobs = torch.tensor([-1.0, -2.0, -3.0])[replies] * mask
    prompts = tuple(torch.zeros(n, dtype=torch.int64) for n in (5, 1, 2))
    return Batch(
        prompts,
        replies,
        mask,
        logprobs,
        torch.tensor(payoffs),
        torch.tensor([0, 1, 1]),
        torch.ones(3),
        roles,
        ((),) * 3,
    )


def paired(
    chosen: Tensor,
    rejected: Tensor,
    wins: tuple[float, float] = (0.5, 0.5),
    lengths: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
) -> PairedReplies:
    """Pairs with these log-ratios; all alike in what is not given."""
    one = torch.ones(len(chosen))
    return PairedReplies(
        chosen, rejected, wins[0] * one, wins[1] * one, *(lengths or (one, one)), one if weights is None else weights
    )
