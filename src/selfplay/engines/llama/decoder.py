"""Fast inference in plain PyTorch for the Llama family (Llama, SmolLM, Mistral, Qwen 2 and 3), without gradient.

Optimised for sampling many replies to few prompts:

* replies share one copy of their prompt's keys and values;
* query, key and value projections are one matrix, and large matrices are stored in oneDNN's blocked layout (about
  twice as fast for sixteen rows on a CPU);
* adapters are merged in float32. In half precision they stay apart: rounding would remove from W + B A what is smaller
  than half a unit in the last place of W, so the sampler would not see the first steps of training;
* rotary embeddings are one complex product, so the two halves of a head are interleaved in the weights.

`can_decode` in `selfplay.engines.llama.trial` identifies the family by the model's modules
(`selfplay.models.structure`) and compares a decoder with the model's own forward pass. A decoder takes about as much
memory as the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.engines.llama.graphs import Capture
from selfplay.models.structure import base_of, body_of

LARGE = 1 << 17  # minimum matrix entries for oneDNN's layout, whose call overhead is 15 microseconds


class Product:
    """A linear layer x W^T + b + (x A^T) B^T, with the weight in oneDNN's layout where that is faster.

    Args:
        weight: [out, in].
        bias: [out] or None.
        dtype: compute precision.
        factors: A [rank, in] and B [out, rank] of adapters that are not merged into the weight, or None.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, factors: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.factors = None if factors is None else (factors[0].to(dtype), factors[1].to(dtype).t())
        weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        large = weight.numel() >= LARGE and weight.device.type == "cpu"
        self.laid_out = large and lays_out(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16) if self.laid_out else weight

    def __call__(self, x: Tensor) -> Tensor:
        out = self._with(x, "none") if self.laid_out else F.linear(x, self.weight, self.bias)
        if self.factors is None:
            return out
        a, b = self.factors
        return torch.addmm(out.flatten(0, -2), F.linear(x, a).flatten(0, -2), b).view_as(out)

    def silu(self, x: Tensor) -> Tensor:
        """silu of the output."""
        return self._with(x, "swish") if self._fuses else F.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The output times `other`."""
        return self._and(x, other, "mul") if self._fuses else self(x).mul_(other)

    @property
    def _fuses(self) -> bool:
        return self.laid_out and self.factors is None

    def onto(self, x: Tensor, other: Tensor) -> Tensor:
        """The output plus `other`."""
        if x.dtype != other.dtype or self.factors is not None:
            return other + self(x)
        if self.laid_out:
            return self._and(x, other, "add")
        if self.bias is not None:
            return self(x).add_(other)
        return torch.addmm(other.flatten(0, -2), x.flatten(0, -2), self.weight.t()).view_as(other)

    def _with(self, x: Tensor, what: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, what, [], "")
        return out

    def _and(self, x: Tensor, other: Tensor, what: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, what)
        return out


def lays_out(dtype: torch.dtype) -> bool:
    """Whether oneDNN supports matrices of this precision on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


@dataclass
class Layer:
    """The weights of one layer; `read` projects to queries, keys and values, `write` is the output projection."""

    read: Product
    write: Product
    gate: Product
    up: Product
    down: Product
    before: Tensor
    between: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


class _Lazy(Collection[Layer]):
    """Layers that are made when they are iterated over."""

    def __init__(self, make: Sequence[Callable[[], Layer]]) -> None:
        self.make = make

    def __len__(self) -> int:
        return len(self.make)

    def __iter__(self) -> Iterator[Layer]:
        return (make() for make in self.make)

    def __contains__(self, layer: object) -> bool:
        return False


class Decoder:
    """A decoder with the model's current weights; build a new one when they change.

    Args:
        model: a model of the Llama family, see `can_decode`.
        dtype: precision of products and, on an accelerator, of keys and values; sums and norms are in float32.
        lazily: whether a layer's weights are laid out anew whenever it is used, so that one layer takes memory.
        capture: records token steps, see `selfplay.engines.llama.graphs`; None: they are not recorded.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, lazily: bool = False, capture: Capture | None = None
    ) -> None:
        config: Any = model.config.get_text_config()
        body = body_of(model)
        first, self.capture = body.layers[0].self_attn, capture
        self.head_dim = first.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale, self.dtype, self.device = first.scaling, dtype, model.device
        sizes = (config.hidden_size, self.head_dim)
        self.least = {size: torch.tensor((size * config.rms_norm_eps) ** 0.5, device=self.device) for size in sizes}
        on_cpu = self.device.type == "cpu"  # small bfloat16 products are slow on a CPU
        self.attention = torch.float32 if on_cpu else dtype  # of keys and values; scores are in float32 everywhere
        self.rotary, self.embedding, self.norm = body.rotary_emb, body.embed_tokens.weight, _times_root(body.norm)
        self.head = _product([model.get_output_embeddings()], dtype)
        order = torch.arange(self.head_dim).view(2, -1).t().reshape(-1)
        lazy = _Lazy([partial(self._layer, layer, order) for layer in body.layers])
        self.layers: Collection[Layer] = lazy if lazily else list(lazy)

    def _layer(self, layer: Any, order: Tensor) -> Layer:
        at, mlp = layer.self_attn, layer.mlp
        rotated = (self.heads + self.kv_heads) * self.head_dim
        rows = torch.arange(rotated + self.kv_heads * self.head_dim).view(-1, self.head_dim)
        rows[: self.heads + self.kv_heads] = rows[: self.heads + self.kv_heads, order]
        query_norm, key_norm = (
            n and _times_root(n)[order] for n in (getattr(at, "q_norm", None), getattr(at, "k_norm", None))
        )
        gate, up, down = (_product([module], self.dtype) for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        return Layer(
            _product([at.q_proj, at.k_proj, at.v_proj], self.dtype, rows.reshape(-1)),
            _product([at.o_proj], self.dtype),
            gate,
            up,
            down,
            _times_root(layer.input_layernorm),
            _times_root(layer.post_attention_layernorm),
            query_norm,
            key_norm,
        )

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm x / sqrt(mean x^2 + epsilon) * w, where `weight` is w times the square root of its size."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        normed: Tensor = x / torch.hypot(length, self.least[x.shape[-1]])
        return normed.mul_(weight)

    def rotary_tables(self, positions: Tensor) -> Tensor:
        """[*positions.shape, 1, D / 2] complex64 rotary factors."""
        cos, sin = self.rotary(self.norm, positions.reshape(1, -1))
        half = self.head_dim // 2
        table: Tensor = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
        return table.view(*positions.shape, 1, half)

    def qkv(self, layer: Layer, states: Tensor, rotary_tables: Tensor) -> Tensor:
        """[..., heads + 2 kv_heads, D] float32 queries, keys and values of states [..., H]."""
        read = layer.read(self._norm(states, layer.before).to(self.dtype)).float()
        every = read.view(*states.shape[:-1], -1, self.head_dim)
        rotated = every[..., : self.heads + self.kv_heads, :]
        if layer.query_norm is not None and layer.key_norm is not None:
            rotated[..., : self.heads, :] = self._norm(rotated[..., : self.heads, :], layer.query_norm)
            rotated[..., self.heads :, :] = self._norm(rotated[..., self.heads :, :], layer.key_norm)
        torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(rotary_tables)
        return every

    def after(self, layer: Layer, states: Tensor, seen: Tensor) -> Tensor:
        """[..., H] the layer's output, from its input states and its attention output `seen` [..., heads * D]."""
        states = layer.write.onto(seen.to(self.dtype), states)
        read = self._norm(states, layer.between).to(self.dtype)
        return layer.down.onto(layer.up.times(read, layer.gate.silu(read)), states)

    def logits(self, states: Tensor) -> Tensor:
        """[B, V] float32 logits of the last layer's states [B, H]."""
        return self.head(self._norm(states, self.norm).to(self.dtype)).float()

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding).float()


def _times_root(norm: Any) -> Tensor:
    """The weight of a norm, in float32, times the square root of its size."""
    weight: Tensor = norm.weight.float() * len(norm.weight) ** 0.5
    return weight


def _product(modules: Sequence[Any], dtype: torch.dtype, rows: Tensor | None = None) -> Product:
    """The modules' matrices stacked; `rows` selects and reorders the output rows."""
    merge = torch.finfo(dtype).bits >= 32
    found = [_merged(module) if merge else base_of(module).weight for module in modules]
    weight = torch.cat(found) if len(found) > 1 else found[0]
    biases = [bias for module in modules if (bias := base_of(module).bias) is not None]
    bias = torch.cat(biases) if biases else None
    factors = None if merge else _factors(modules)
    if rows is not None:
        rows = rows.to(weight.device)
        weight, bias = weight[rows], None if bias is None else bias[rows]
        factors = None if factors is None else (factors[0], factors[1][rows])
    return Product(weight, bias, dtype, factors)


def _merged(module: Any) -> Tensor:
    """The weight of a linear module, with its adapter added."""
    weight: Tensor = base_of(module).weight
    if base_of(module) is not module:
        a, b, scale = _adapter(module)
        weight = torch.addmm(weight.float(), b.float(), a.float(), alpha=scale)
    return weight


def _factors(modules: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """The adapters of stacked modules as one: A [sum of ranks, in] and a block-diagonal B; None if there is none."""
    adapted = [module for module in modules if base_of(module) is not module]
    if not adapted:
        return None
    first, blocks = [], []
    for module in modules:
        weight = base_of(module).weight
        a, b, scale = _adapter(module) if module in adapted else (weight[:0], weight[:, :0], 1.0)
        first.append(a.float())
        blocks.append(b.float() * scale)
    return torch.cat(first), torch.block_diag(*blocks)  # type: ignore[no-untyped-call]


def _adapter(module: Any) -> tuple[Tensor, Tensor, float]:
    """The factors A [rank, in] and B [out, rank] of a module's adapter, and its scale."""
    name = module.active_adapters[0]
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
