"""Flash attention for packed rows on an accelerator, by `torch.nn.attention.varlen`: no mask, no padding.

The tokens of a prompt, and those of each reply, are the queries of a sequence of their own. Its keys are, for a prompt,
the prompt's; for a reply, those of its prompt followed by its own. The kernel's causal mask is aligned with the end of
the keys, so a reply sees its whole prompt. Keys and values of a prompt are thus copied once for each of its replies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.devices import sent
from selfplay.engines.packing import Packed
from selfplay.models.structure import body_of

Kernel = Callable[..., Tensor]
FLASH = "flash"
LEAST, WIDEST = (8, 0), 256  # CUDA compute capability and head size that the kernel supports
OPTIONS = {"scale", "window_size", "enable_gqa"}  # that it has from PyTorch 2.12 on


def prefer(model: PreTrainedModel, packed_attention: str) -> None:
    """Ask for "flash" or "mask" attention over packed rows, for this model and its copies."""
    body_of(model).packed_attention = packed_attention


def prefers_flash(model: PreTrainedModel) -> bool:
    return bool(vars(body_of(model)).get("packed_attention") == FLASH)


def kernel_of(model: PreTrainedModel) -> Kernel | None:
    """The kernel for a model with our own layers; None if the device has none, or it does not support the heads."""
    size = int(body_of(model).layers[0].self_attn.head_dim)
    return kernel_on(model.device) if size <= WIDEST and size % 8 == 0 else None


def kernel_on(device: torch.device) -> Kernel | None:
    """`varlen_attn` where this PyTorch has it for the device, else None."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < LEAST:
        return None
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return None
    found: Any = varlen.varlen_attn
    return found if set(signature(found).parameters) >= OPTIONS else None


@dataclass(frozen=True)
class Sequences:
    """S sequences of R packed rows of L tokens, one for each prompt and reply.

    Attributes:
        tokens: [N] flat index into R * L of each query; padding has none.
        keys: [K] flat index into R * L of each key.
        query_ends, key_ends: [S + 1] int32, the number of queries and keys before each sequence, and of all.
        longest_query, longest_key: the most of one sequence.
        kernel: computes the attention.
    """

    tokens: Tensor
    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int
    kernel: Kernel

    @staticmethod
    def of(packed: Packed, kernel: Kernel) -> Sequences:
        """The sequences of rows that are on the CPU."""
        segments, roots = packed.segments.flatten(), packed.roots.flatten()
        tokens = (segments >= 0).nonzero()[:, 0]
        row = tokens // packed.segments.shape[1] * (int(segments.max()) + 1)
        names, counts = (row + segments[tokens]).unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        own = dict(zip(names.tolist(), tokens.split(counts.tolist()), strict=True))
        prompts = (row + roots[tokens])[ends - 1].tolist()  # a prompt is its own; an empty one has no tokens
        keys = [
            torch.cat([own[prompt], some]) if prompt != name and prompt in own else some
            for (name, some), prompt in zip(own.items(), prompts, strict=True)
        ]
        lengths = torch.tensor(list(map(len, keys)))
        return Sequences(
            tokens, torch.cat(keys), _from_zero(ends), _from_zero(lengths.cumsum(0)), int(counts.max()),
            int(lengths.max()), kernel,
        )  # fmt: skip

    def on(self, device: torch.device) -> Sequences:
        tokens, keys, query_ends, key_ends = (
            sent(x, device) for x in (self.tokens, self.keys, self.query_ends, self.key_ends)
        )
        return replace(self, tokens=tokens, keys=keys, query_ends=query_ends, key_ends=key_ends)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, some: Sequences) -> Tensor:
    """[R, L, heads, D] attention of queries [R, L, heads, D] to keys and values [R, L, kv_heads, D]; 0 at padding."""
    flat = query.flatten(0, 1)
    seen = some.kernel(
        flat.index_select(0, some.tokens),
        *(x.flatten(0, 1).index_select(0, some.keys) for x in (key, value)),
        some.query_ends,
        some.key_ends,
        some.longest_query,
        some.longest_key,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return torch.zeros_like(flat).index_copy(0, some.tokens, seen).view_as(query)


def _from_zero(ends: Tensor) -> Tensor:
    return torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
