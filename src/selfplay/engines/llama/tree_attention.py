"""Branch attention for packed rows on a CPU: replies attend to their prompt and themselves; masked pairs are skipped.

Under a mask (`Packed.attention`) all token pairs of a row are computed and most are discarded. Here a reply's attention
is two calls of PyTorch's flash-attention kernel, to the prompt and to the reply itself, combined by their log-sum-exps.
The backward pass calls the same kernel for each part with the combined log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfplay.engines.packing import Packed

kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
kernel_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Tree:
    """Positions of prompts and replies in R packed rows of L tokens, one tree per row.

    Attributes:
        width: P, length of the longest prompt.
        hidden: [R, 1, 1, P] additive mask, -inf past the end of a shorter prompt; None if all have equal length.
        grid: [R, G, T] flat index into R * L of each reply token, 0 for padding.
        there: [R * G * T] bool, false for padding.
    """

    width: int
    hidden: Tensor | None
    grid: Tensor
    there: Tensor

    @staticmethod
    def of(packed: Packed) -> Tree:
        rows, length = packed.segments.shape
        device = packed.segments.device
        prompts = (packed.segments == 0).sum(1)
        width = int(prompts.max())
        hidden = None
        if int(prompts.min()) < width:
            short = torch.arange(width, device=device) >= prompts[:, None]
            hidden = torch.zeros(short.shape, device=device).masked_fill(short, -torch.inf)[:, None, None]
        row, column = (packed.segments > 0).nonzero(as_tuple=True)
        segment = packed.segments[row, column] - 1
        first = torch.full((rows, int(segment.max()) + 1), length, device=device)
        first.view(-1).scatter_reduce_(0, row * first.shape[1] + segment, column, "amin")
        within = column - first[row, segment]
        shape = (*first.shape, int(within.max()) + 1)
        grid = torch.zeros(shape, dtype=torch.int64, device=device)
        there = torch.zeros(shape, dtype=torch.bool, device=device)
        grid[row, segment, within], there[row, segment, within] = row * length + column, True
        return Tree(width, hidden, grid, there.view(-1))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, tree: Tree) -> Tensor:
    """[R, L, heads, D] attention of queries [R, heads, L, D] to keys and values [R, heads, L, D]."""
    rows, heads, length, size = query.shape
    _, branches, longest = tree.grid.shape
    prompt = slice(0, tree.width)
    own = [
        x.transpose(1, 2).reshape(-1, heads, size)[tree.grid.view(-1)].view(-1, longest, heads, size).transpose(1, 2)
        for x in (query, key, value)
    ]
    hidden = None if tree.hidden is None else tree.hidden.to(query.dtype)
    replies: Tensor = _Branches.apply(*own, key[:, :, prompt], value[:, :, prompt], hidden, scale)  # type: ignore[no-untyped-call]
    prompts = F.scaled_dot_product_attention(
        query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], is_causal=True, scale=scale
    )
    seen = F.pad(prompts.transpose(1, 2), (0, 0, 0, 0, 0, length - tree.width)).reshape(-1, heads, size)
    replies = replies.transpose(1, 2).reshape(rows * branches * longest, heads, size)
    return seen.index_copy(0, tree.grid.view(-1)[tree.there], replies[tree.there]).view(rows, length, heads, size)


class _Branches(torch.autograd.Function):
    """[R * G, heads, T, D] attention of replies to themselves (causal) and to their row's prompt."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, old: Tensor, old_value: Tensor, hidden: Any, scale: float
    ) -> Tensor:
        rows, shape = len(old), query.shape
        near, near_sums = kernel(query, key, value, 0.0, True, scale=scale)
        far, far_sums = kernel(_side_by_side(query, rows), old, old_value, 0.0, False, attn_mask=hidden, scale=scale)
        far, near_sums = _apart(far, shape), near_sums[..., None]
        far_sums = _apart(far_sums[..., None], (*shape[:3], 1))
        sums = torch.logaddexp(near_sums, far_sums)
        seen: Tensor = near * (near_sums - sums).exp() + far * (far_sums - sums).exp()
        seen = seen.to(query.dtype)
        ctx.save_for_backward(query, key, value, old, old_value, seen, sums)
        ctx.hidden, ctx.scale = hidden, scale
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, old, old_value, seen, sums = ctx.saved_tensors
        rows, slope, scale = len(old), slopes[0].to(query.dtype), ctx.scale
        by_query, by_key, by_value = kernel_backward(
            slope, query, key, value, seen, sums[..., 0].contiguous(), 0.0, True, scale=scale
        )
        wide_slope, wide_query, wide_seen, wide_sums = (_side_by_side(x, rows) for x in (slope, query, seen, sums))
        by_far, by_old, by_old_value = kernel_backward(
            wide_slope, wide_query, old, old_value, wide_seen, wide_sums[..., 0].contiguous(), 0.0, False,
            attn_mask=ctx.hidden, scale=scale,
        )  # fmt: skip
        return by_query + _apart(by_far, query.shape), by_key, by_value, by_old, by_old_value, None, None


def _side_by_side(x: Tensor, rows: int) -> Tensor:
    """[R * G, heads, T, d] -> [R, heads, G * T, d]."""
    return x.view(rows, -1, *x.shape[1:]).transpose(1, 2).flatten(2, 3)


def _apart(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `_side_by_side`."""
    return x.view(*x.shape[:2], -1, shape[2], x.shape[3]).transpose(1, 2).reshape(shape)
