"""The sizes of a model that its memory depends on, from its config alone: it is built on torch's meta device."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.engines.footprint import decoder_bytes, decodes, runs_own_layers
from selfplay.models.load import quiet

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class Weight:
    """One parameter of a model.

    Attributes:
        shape: its shape.
        itemsize: bytes of an element.
        trained: whether it has a gradient.
        block: the number of the transformer block that it is in; -1 outside of the blocks.
    """

    shape: tuple[int, ...]
    itemsize: int
    trained: bool
    block: int = -1

    def elements(self, processes: int = 1) -> int:
        """The elements that process 0 holds if the first dimension is split, rounded up, among the processes."""
        first, *rest = self.shape or (1,)
        return math.ceil(first / processes) * math.prod(rest)

    def bytes(self, processes: int = 1) -> int:
        return self.elements(processes) * self.itemsize


@dataclass(frozen=True)
class Model:
    """A model's sizes.

    Attributes:
        weights: every parameter once, adapters included.
        layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary: as in the config of a Llama.
        itemsize: bytes of an element of the base model's weights.
        compute: bytes of an element of its matrix products.
        decoder: bytes of the copies that the embedded engine's decoder makes; None if it uses the model's own modules.
        own_layers: whether log-probabilities use the layers of `selfplay.engines.llama`.
        eager: whether attention weights are tensors, with attention=eager.
        lora: whether an adapter is trained instead of the model.
    """

    weights: tuple[Weight, ...]
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    itemsize: int
    compute: int
    decoder: int | None
    own_layers: bool
    eager: bool
    lora: bool

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(weight.elements() for weight in self.weights)

    @property
    def trained(self) -> tuple[Weight, ...]:
        return tuple(weight for weight in self.weights if weight.trained)


def model_of(
    auto: Any,
    config: PreTrainedConfig,
    dtype: str,
    on_cpu: bool,
    attention: str = "sdpa",
    compute_dtype: str | None = None,
    lora: Mapping[str, Any] | LoraConfig | None = None,
) -> Model:
    """The sizes of a model with this config.

    Args:
        auto: a transformers Auto class.
        config: the model's config.
        dtype, attention, compute_dtype: see `selfplay.players.language_model.LanguageModel`.
        lora: arguments of `peft.LoraConfig`, or such a config; None to train the whole model.
        on_cpu: whether the model will be on a CPU.

    Raises:
        SelfplayError: transformers or peft cannot build the model.
    """
    try:
        with torch.device("meta"), quiet():
            model = auto.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
            if lora is not None:
                model = _adapted(model, lora)
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(
            f"a model of the type {config.model_type} cannot be built from its config ({reason}); correct the config, "
            "player.attention or player.lora"
        ) from error
    compute = getattr(torch, precision(compute_dtype, dtype, on_cpu))
    text = config.get_text_config()
    heads = _number(text, "num_attention_heads", 1)
    hidden = _number(text, "hidden_size", 0)
    causal = model.get_output_embeddings() is not None
    return Model(
        weights=tuple(_weights(model)),
        layers=_number(text, "num_hidden_layers", 0),
        hidden=hidden,
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", heads),
        head_dim=_number(text, "head_dim", hidden // heads),
        intermediate=_number(text, "intermediate_size", 4 * hidden),
        vocabulary=_number(text, "vocab_size", 0),
        itemsize=getattr(torch, dtype).itemsize,
        compute=compute.itemsize,
        decoder=decoder_bytes(model, compute, on_cpu) if causal and decodes(model) else None,
        own_layers=causal and runs_own_layers(model),
        eager=attention == "eager",
        lora=lora is not None,
    )


def _number(config: Any, name: str, default: int) -> int:
    found = getattr(config, name, None)
    return default if found is None else int(found)


def _adapted(model: PreTrainedModel, lora: Mapping[str, Any] | LoraConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    config = copy.copy(lora) if isinstance(lora, LoraConfig) else LoraConfig(task_type="CAUSAL_LM", **lora)
    config.init_lora_weights, config.inference_mode = True, False  # other initial weights are made from the model's
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        return get_peft_model(model, config)


def _weights(model: Any) -> Iterable[Weight]:
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    within = {id(p): number for number, block in enumerate(blocks) for p in block.parameters()}
    for p in model.parameters():
        yield Weight(tuple(p.shape), p.element_size(), p.requires_grad, within.get(id(p), -1))


def llama_of(
    parameters: float | None,
    layers: int,
    hidden: int,
    intermediate: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    vocabulary: int = 128_256,
    tied: bool = False,
) -> LlamaConfig:
    """A Llama's config from its sizes.

    With V the vocabulary, H the hidden size, L layers, D = H / heads and I the intermediate size, the parameters are
    V H (twice without tied embeddings) + L (2 H^2 + 2 H D kv_heads + 3 H I + 2 H) + H; without I it follows from them.

    Args:
        parameters: the number of parameters; needed without `intermediate`, and otherwise ignored.
        layers, hidden, intermediate, vocabulary: sizes.
        heads: hidden / 128 by default.
        kv_heads: 8 by default, or as many as there are heads if these are fewer.
        tied: whether the head is the embedding.

    Raises:
        SelfplayError: a size is missing or not positive, or hidden is not divisible by the heads.
    """
    heads = heads or max(1, hidden // 128)
    kv_heads = kv_heads or min(8, heads)
    if hidden % heads or heads % kv_heads:
        raise SelfplayError(
            f"a hidden size of {hidden} has {heads} heads and {kv_heads} key and value heads, which do not divide it; "
            "give --heads and --kv-heads"
        )
    if intermediate is None:
        if parameters is None:
            raise SelfplayError("the size of the MLP is unknown; give --intermediate, or --parameters")
        attention = 2 * hidden * hidden + 2 * hidden * (hidden // heads) * kv_heads + 2 * hidden
        rest = parameters - vocabulary * hidden * (1 if tied else 2) - hidden - layers * attention
        intermediate = round(rest / (3 * hidden * layers))
    sizes = {"layers": layers, "hidden": hidden, "intermediate": intermediate, "vocabulary": vocabulary}
    for name, size in sizes.items():
        if size < 1:
            raise SelfplayError(
                f"the model's {name} would be {size}; the sizes contradict one another, so correct --parameters, "
                "--layers, --hidden, --vocabulary or --tied"
            )
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
    )


def precision(compute_dtype: str | None, dtype: str, on_cpu: bool) -> str:
    """The precision of products; accelerators are taken to compute in bfloat16."""
    if compute_dtype == "auto":
        return dtype if on_cpu or dtype != "float32" else "bfloat16"
    return compute_dtype or dtype
