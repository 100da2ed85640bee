"""Attention of packed rows on a processor: each reply looks at its prompt and at itself, and nothing else is computed.

Under a mask (`Packed.attention`) every token of a row is compared with every other, and most of it is thrown away. Here
a reply's attention is two calls of PyTorch's own kernel, to the prompt and to the reply so far, put together by their
log-sum-exps; the gradient is the kernel's, too, for each part with the sums of the whole.
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
    """Where prompts and replies are in R packed rows of L tokens.

    Attributes:
        width: P, tokens of the longest prompt.
        hidden: [R, 1, 1, P], minus infinity where a prompt is shorter; None where none is.
        grid: [R, G, T] the place in R * L of each token of the row's replies; 0 where there is none.
        there: [R * G * T] bool, where there is one.
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
    """[R, L, heads, D] what queries [R, heads, L, D] see of keys and values [R, heads, L, D]."""
    rows, heads, length, size = query.shape
    _, branches, longest = tree.grid.shape
    prompt = slice(0, tree.width)
    own = [
        x.transpose(1, 2).reshape(-1, heads, size)[tree.grid.view(-1)].view(-1, longest, heads, size).transpose(1, 2)
        for x in (query, key, value)
    ]
    hidden = None if tree.hidden is None else tree.hidden.to(query.dtype)
    said: Tensor = _Branches.apply(*own, key[:, :, prompt], value[:, :, prompt], hidden, scale)  # type: ignore[no-untyped-call]
    begun = F.scaled_dot_product_attention(
        query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], is_causal=True, scale=scale
    )
    seen = F.pad(begun.transpose(1, 2), (0, 0, 0, 0, 0, length - tree.width)).reshape(-1, heads, size)
    said = said.transpose(1, 2).reshape(rows * branches * longest, heads, size)
    return seen.index_copy(0, tree.grid.view(-1)[tree.there], said[tree.there]).view(rows, length, heads, size)


class _Branches(torch.autograd.Function):
    """[R * G, heads, T, D] what replies see of themselves (causally) and of their row's prompt."""

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
    """The way back."""
    return x.view(*x.shape[:2], -1, shape[2], x.shape[3]).transpose(1, 2).reshape(shape)
