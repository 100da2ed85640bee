"""A trial of flash attention's gradients, which trials of a model's states do not read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.engines.llama.varlen import Sequences, attend, kernel_of
from selfplay.engines.packing import Packed, PackingPlanner
from selfplay.models.structure import body_of
from selfplay.models.trial import as_accurate

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SCALE = 0.3
PROMPTS, REPLIES = (40, 40, 40, 17, 17), (30, 7, 19, 64, 3)  # tokens; prompts of one length are one prompt


def gradients_agree(model: PreTrainedModel) -> bool:
    """Whether attention by a model's kernel and its gradients are as accurate in bfloat16 as those under the mask.

    Queries, keys and values of two prompts with their replies are random numbers; the truth is attention under the mask
    in float32.
    """
    config, kernel, device, packed = model.config.get_text_config(), kernel_of(model), model.device, _probe()
    assert kernel is not None
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = body_of(model).layers[0].self_attn.head_dim
    generator = torch.Generator().manual_seed(0)
    shape, there = packed.ids.shape, packed.segments.to(device) >= 0
    given = [torch.randn(*shape, n, head_dim, generator=generator) for n in (heads, kv_heads, kv_heads)]
    half = [x.to(device, torch.bfloat16) for x in given]
    slopes = torch.randn(*shape, heads, head_dim, generator=generator).to(device)
    here, some = packed.on(device), Sequences.of(packed, kernel).on(device)

    def read(do: Attend, dtype: torch.dtype) -> list[Tensor]:
        """The attention and its gradients by queries, keys and values."""
        with torch.enable_grad():
            inputs = [x.to(dtype).requires_grad_() for x in half]
            seen = do(*inputs)[there]
            return [seen.detach(), *torch.autograd.grad((seen * slopes[there].to(dtype)).sum(), inputs)]

    masked = {dtype: partial(_masked, mask=here.attention(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    ours = read(lambda query, key, value: attend(query, key, value, SCALE, some), torch.bfloat16)
    exact, theirs = (read(do, dtype) for dtype, do in masked.items())
    return all(map(as_accurate, ours, theirs, exact))


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    groups = query.shape[2] // key.shape[2]
    query, key, value = (x.transpose(1, 2) for x in (query, *(x.repeat_interleave(groups, 2) for x in (key, value))))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE).transpose(1, 2)


def _probe() -> Packed:
    """A row for each of the two prompts, the second with padding."""
    prompts = [torch.arange(n) for n in PROMPTS]
    replies = torch.arange(len(REPLIES) * max(REPLIES)).view(len(REPLIES), -1)
    planner = PackingPlanner(prompts, replies, torch.arange(max(REPLIES)) < torch.tensor(REPLIES)[:, None])
    return planner.packed(planner.apart())
