"""Llama-family layers over packed rows, with gradient: equal to transformers' modules, with fewer memory passes.

Projections call the model's own modules (adapters included). The operations between them are implemented here: norm,
rotary embedding and gate save only what their gradients need, hidden states are cast to the compute precision once for
all projections, and the last layer computes only the requested positions.

`has_own_layers` identifies the family by the model's modules (`selfplay.models.structure`) and confirms it by a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from selfplay.devices import sent, sizes_of
from selfplay.engines.llama import varlen
from selfplay.engines.llama.tree_attention import Tree, attend
from selfplay.engines.llama.varlen import Sequences, kernel_of, prefers_flash
from selfplay.engines.llama.varlen_trial import gradients_agree
from selfplay.engines.masked import full_attention, half_trial, obeys_masks, trial, under_mask
from selfplay.engines.packing import Packed, PackingPlanner, branched_cost, masked_cost
from selfplay.models.gradient_checkpointing import runs_again
from selfplay.models.structure import body_of, has_llama_body, through
from selfplay.models.trial import passes

SMALL = 1 << 23  # maximum bytes of a layer's attention weights for which eager attention is faster than the kernel
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
SHORT = {torch.float32: 160, torch.bfloat16: 512}  # and the maximum row length, in tokens

Pairs = Tree | Sequences | Tensor  # which tokens attend to which; a tensor is an additive mask


def choose_layout(model: PreTrainedModel, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> Packed:
    """Pack replies for `states_at`, choosing the cheaper of masked and branch attention."""
    planner = PackingPlanner(prompts, replies, mask, sizes_of(model.device))
    plan, other = planner.close(), planner.apart()
    if branched_cost(other) < masked_cost(len(plan.rows), plan.width) and _is_ours(model) and can_branch(model):
        plan = other
    return planner.packed(plan)


def states_at(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    """[M, H] last hidden states at ([M] rows, [M] columns), which are on the CPU, by the fastest implementation that
    the model supports."""
    if not _is_ours(model):
        return under_mask(model, packed, rows, columns)
    if packed.branched and can_branch(model):
        return _branched(model, packed, rows, columns)
    return (_flash if _in_half(model) and can_flash(model) else _masked)(model, packed, rows, columns)


def _is_ours(model: PreTrainedModel) -> bool:
    return has_own_layers(model) and not runs_again(model)


def has_own_layers(model: PreTrainedModel) -> bool:
    """Whether the layers here compute the same as the model's, by its modules and by a trial."""
    return has_parts(model) and passes(model, "own layers", lambda m: trial(m, _masked))


def has_parts(model: PreTrainedModel) -> bool:
    """Whether the layers here could be used, by the model's modules alone."""
    plain = model.config.get_text_config()._attn_implementation == "sdpa" and model.dtype in PRECISIONS
    return plain and full_attention(model) and has_llama_body(model)


def can_pack(model: PreTrainedModel) -> bool:
    """Whether replies can share their prompt's computation, by the layers here or by the model's under our mask."""
    return _is_ours(model) or obeys_masks(model)


def can_branch(model: PreTrainedModel) -> bool:
    """Whether the layers here also support branch attention, by a trial; on the CPU only."""
    on_processor = model.device.type == "cpu"
    return on_processor and passes(model, "branches", lambda m: trial(m, _branched, branched=True))


def can_flash(model: PreTrainedModel) -> bool:
    """Whether flash attention was asked for, exists for the model's device, and is as accurate in half precision as the
    mask, by trials of the states and of gradients."""
    supported = prefers_flash(model) and _is_ours(model) and kernel_of(model) is not None
    return supported and passes(model, "flash", _flash_agrees)


def _flash_agrees(model: PreTrainedModel) -> bool:
    return half_trial(model, _flash, _masked) and gradients_agree(model)


def _in_half(model: PreTrainedModel) -> bool:
    kind = model.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return dtype in (torch.bfloat16, torch.float16)


def _masked(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    return _states(model, packed, rows, columns, lambda there, dtype: there.attention(dtype))


def _branched(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    return _states(model, packed, rows, columns, lambda there, dtype: Tree.of(there))


def _flash(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    kernel = kernel_of(model)
    assert kernel is not None
    some = Sequences.of(packed, kernel).on(model.device)
    return _states(model, packed, rows, columns, lambda there, dtype: some)


def _states(
    model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor, pairs_of: Callable[..., Pairs]
) -> Tensor:
    body, device = body_of(model), model.device
    places, where = (rows * packed.ids.shape[1] + columns).unique(return_inverse=True)
    places, where, packed = sent(places, device), sent(where, device), packed.on(device)
    embedded = body.embed_tokens(packed.ids)
    kind = device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embedded.dtype  # of matrix products
    states = embedded.float()  # sums over layers are in float32, as in the sampler, also with half-precision weights
    cos, sin = (x[:, :, None, : x.shape[-1] // 2].float() for x in body.rotary_emb(states, packed.positions))
    mask = pairs_of(packed, dtype)
    for layer in body.layers:
        kept = places if layer is body.layers[-1] else None
        states = through(layer, _layer, states, cos, sin, mask, dtype, kept)
    return _norm(body.norm, states, embedded.dtype).index_select(0, where)


def _layer(
    layer: Any, states: Tensor, cos: Tensor, sin: Tensor, mask: Pairs, dtype: torch.dtype, kept: Tensor | None
) -> Tensor:
    """The states [R, L, H] after a layer; with `kept`, [M] flat token positions, only those [M, H]."""
    seen = _seen(layer.self_attn, _norm(layer.input_layernorm, states, dtype), cos, sin, mask)
    if kept is not None:
        states, seen = (x.flatten(0, 1).index_select(0, kept) for x in (states, seen))
    states = states + layer.self_attn.o_proj(seen)
    read = _norm(layer.post_attention_layernorm, states, dtype)
    gate, up = layer.mlp.gate_proj(read), layer.mlp.up_proj(read)
    return states + layer.mlp.down_proj(_SwiGLU.apply(gate, up))  # type: ignore[no-untyped-call, no-any-return]


def _seen(at: Any, read: Tensor, cos: Tensor, sin: Tensor, mask: Pairs) -> Tensor:
    """[R, L, heads * D] attention outputs, from the normed states [R, L, H]."""
    query, key, value = (
        product(read).unflatten(-1, (-1, at.head_dim)) for product in (at.q_proj, at.k_proj, at.v_proj)
    )
    if hasattr(at, "q_norm"):
        query, key = _norm(at.q_norm, query, query.dtype), _norm(at.k_norm, key, key.dtype)
    query, key = (_Rotary.apply(x, cos, sin) for x in (query, key))  # type: ignore[no-untyped-call]
    if isinstance(mask, Sequences):
        return varlen.attend(query, key, value, at.scaling, mask).flatten(2)
    if isinstance(mask, Tensor) and _is_small(query):
        return _EagerAttention.apply(query, key, value, mask, at.scaling).flatten(2)  # type: ignore[no-untyped-call, no-any-return]
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 2) for x in (key, value))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if isinstance(mask, Tree):
        return attend(query, key, value, at.scaling, mask).flatten(2)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=at.scaling)
    return seen.transpose(1, 2).flatten(2)


def _norm(module: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    normed: Tensor = _RMSNorm.apply(x, module.weight, module.variance_epsilon, dtype)  # type: ignore[no-untyped-call]
    return normed


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean x^2 + epsilon) * weight over the last axis, computed in float32 and returned in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse_rms = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse_rms)
        normed: Tensor = (wide * inverse_rms).mul_(weight)
        return normed.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse_rms = ctx.saved_tensors
        slope, wide, size = slopes[0].float(), x.float(), x.shape[-1]
        both = (slope * wide).view(-1, size)
        along = (both @ weight.float()).view(inverse_rms.shape)
        by_x = (slope * weight).mul_(inverse_rms).addcmul_(wide, along.mul_(inverse_rms.pow(3)).div_(-size))
        by_weight = (inverse_rms.view(1, -1) @ both).view(size).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return by_x.to(x.dtype), by_weight, None, None


class _Rotary(torch.autograd.Function):
    """Rotary embedding of heads [R, L, heads, D]; cos and sin are [R, L, 1, D / 2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(slopes[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, two = x.float().chunk(2, -1)
    out = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    first, second = out.chunk(2, -1)
    torch.mul(one, cos, out=first).addcmul_(two, sin, value=-1)
    torch.mul(two, cos, out=second).addcmul_(one, sin)
    return out.to(x.dtype)


def _is_small(query: Tensor) -> bool:
    rows, length, heads, _ = query.shape
    entries = rows * heads * length * length
    fits = length <= SHORT.get(query.dtype, 0) and entries * query.element_size() <= SMALL
    return query.device.type == "cpu" and fits


class _EagerAttention(torch.autograd.Function):
    """Eager attention of queries [R, L, heads, D] to keys and values [R, L, kv_heads, D] under a mask [R, 1, L, L].

    The attention weights are materialised and saved for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        rows, length, heads, _ = query.shape
        kv_heads = key.shape[2]
        query, key, value = (_by_head(x, kv_heads) for x in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):  # in bfloat16 a score of 16 would be off by 0.06
            scores = torch.bmm(query.float() * scale, key.float().transpose(1, 2))
        scores.view(rows, heads, length, length).add_(mask)
        weights = scores.softmax(-1).to(value.dtype)
        ctx.save_for_backward(query, key, value, weights)
        ctx.rows, ctx.scale = rows, scale
        return _by_token(torch.bmm(weights, value), rows, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        length = key.shape[1]
        slope = _by_head(slopes[0], len(key) // ctx.rows)
        by_weights = torch.bmm(slope, value.transpose(1, 2))
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        by_query = torch.bmm(by_scores, key).mul_(ctx.scale)
        by_key = torch.bmm(by_scores.transpose(1, 2), query).mul_(ctx.scale)
        by_value = torch.bmm(weights.transpose(1, 2), slope)
        return *(_by_token(x, ctx.rows, length) for x in (by_query, by_key, by_value)), None, None


def _by_head(x: Tensor, kv_heads: int) -> Tensor:
    """[R, L, heads, D] -> [R * kv_heads, heads / kv_heads * L, D]."""
    rows, length, _, size = x.shape
    return x.view(rows, length, kv_heads, -1, size).permute(0, 2, 3, 1, 4).reshape(rows * kv_heads, -1, size)


def _by_token(x: Tensor, rows: int, length: int) -> Tensor:
    """Inverse of `_by_head`."""
    return x.view(rows, -1, length, x.shape[-1]).transpose(1, 2).contiguous()


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up; silu(gate) is recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_gate: Tensor = torch.ops.aten.silu_backward(slopes[0] * up, gate)
        return by_gate, F.silu(gate).mul_(slopes[0])
