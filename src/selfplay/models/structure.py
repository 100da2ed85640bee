"""The modules of a language model, and which of them may be bypassed because their computation is known.

`decoder.py`, `layers.py` and `logprobs.py` under `engines/` use weights without calling the modules that hold them.
This is correct only if each such module has exactly the expected class and no hook, wrapper (adapter, quantiser,
offloader) or overridden forward method. The functions here inspect modules and never run them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import Embedding, Linear, Module
from torch.nn.modules.module import _has_any_global_hook
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from selfplay.core import SelfplayError

FAMILIES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "seed_oss": "SeedOss",
}  # same code up to names
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HARMLESS = ("make_inputs_require_grad", "make_inputs_require_grads")  # for gradient checkpointing


def bare(model: Any) -> Any:
    """The model without the wrappers of peft; adapters inside its layers remain."""
    while type(model).__module__.partition(".")[0] == "peft":
        model = model.get_base_model()
    return model


def body_of(model: Any) -> Any:
    """The module that maps token ids to last hidden states, without the head.

    Raises:
        SelfplayError: the architecture does not identify its text decoder.
    """
    model = bare(model)
    body = model.get_decoder()
    if isinstance(body, PreTrainedModel) and body.get_output_embeddings() is None:
        return body
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(inner) != 1:
        raise SelfplayError(
            f"the architecture {type(model).__name__} does not identify its text decoder; "
            "choose a decoder-only chat model (Llama, Qwen, Mistral, SmolLM and the like)"
        )
    return inner[0]


def through(module: Any, do: Callable[..., Any], *args: Any) -> Any:
    """Call `do(module, *args)` as a forward pass of the module; a sharded module gathers its weights for the call."""
    gathered = getattr(bare(module), "through", None)
    return do(module, *args) if gathered is None else gathered(do, *args)


def class_of(module: Any) -> type:
    """The module's class; for a sharded module, its class before sharding."""
    kind, *above = type(module).__mro__
    return above[1] if above[0].__name__ == "FSDPModule" else kind  # by name, because its import takes two seconds


def is_plain(module: Any, *kinds: type) -> bool:
    """Whether a module has exactly one of these classes, and calling it runs only that class's forward method."""
    return class_of(module) in kinds and _untouched(module)


def _untouched(module: Module) -> bool:
    hooks = [hook for name in HOOKS for hook in getattr(module, name).values()]
    return "forward" not in vars(module) and all(_is_harmless(hook) for hook in hooks)


def _is_harmless(hook: Any) -> bool:
    if type(getattr(hook, "__self__", None)).__name__ == "FSDPState":
        return True  # it gathers the weights; `through` does this where the module is not called
    return getattr(hook, "__name__", "") in HARMLESS and hook.__module__.partition(".")[0] in ("peft", "transformers")


def has_llama_body(model: Any) -> bool:
    """Whether the layers are of the Llama family, and every module that `llama/layers.py` bypasses is plain.

    The projections (q_proj, ..., down_proj) and the embedding are called as modules there, so they may be anything.
    """
    body = body_of(model)
    family = _family(body)
    if family is None or _has_any_global_hook() or not _untouched(body):  # type: ignore[no-untyped-call]
        return False
    config = body.config
    complete = len(body.layers) == config.num_hidden_layers
    sized = body.rotary_emb.inv_freq.shape[0] * 2 == body.layers[0].self_attn.head_dim  # no partial rotary
    norms = [body.norm, *(norm for layer in body.layers for norm in (layer.input_layernorm, _second_norm(layer)))]
    return (
        complete
        and sized
        and _is(body.rotary_emb, family, "RotaryEmbedding")
        and all(_is(norm, family, "RMSNorm") and norm.weight.shape == (config.hidden_size,) for norm in norms)
        and all(_is_layer(layer, family) for layer in body.layers)
    )


def _second_norm(layer: Any) -> Any:
    return getattr(layer, "post_attention_layernorm", None)


def _family(body: Any) -> str | None:
    for name in FAMILIES:
        if _is_of(body, name, "Model"):
            return name
    return None


def _is_of(module: Any, family: str, part: str) -> bool:
    """Whether the class is transformers' own of this family; compared by name to avoid importing it."""
    kind = class_of(module)
    return (kind.__module__, kind.__qualname__) == (
        f"transformers.models.{family}.modeling_{family}",
        FAMILIES[family] + part,
    )


def _is(module: Any, family: str, part: str) -> bool:
    return _is_of(module, family, part) and _untouched(module)


def _is_layer(layer: Any, family: str) -> bool:
    if not (_is(layer, family, "DecoderLayer") and _is(layer.self_attn, family, "Attention")):
        return False
    at, mlp = layer.self_attn, layer.mlp
    heads = [norm for name in ("q_norm", "k_norm") if (norm := getattr(at, name, None)) is not None]
    return (
        _is(mlp, family, "MLP")
        and is_plain(mlp.act_fn, SiLUActivation)
        and getattr(at, "sliding_window", None) is None
        and all(_is(norm, family, "RMSNorm") for norm in heads)
    )


def is_llama(model: Any) -> bool:
    """Whether all modules of a causal language model that `Decoder` bypasses are plain modules of the Llama family.

    Projections and the head are checked by `is_product`.
    """
    if not has_llama_body(model) or not all(map(_untouched, _wrappers(model))):
        return False
    inner, body = bare(model), body_of(model)
    epsilons = {norm.variance_epsilon for norm in body.modules() if hasattr(norm, "variance_epsilon")}
    return (
        any(_is(inner, family, "ForCausalLM") for family in FAMILIES)
        and is_plain(body.embed_tokens, Embedding)
        and body.embed_tokens.max_norm is None
        and epsilons == {body.config.rms_norm_eps}
    )


def _wrappers(model: Any) -> list[Any]:
    """The modules of peft around the bare model."""
    return [] if model is bare(model) else [model, model.base_model]


def is_product(module: Any) -> bool:
    """Whether a module computes x W^T + b, possibly with one plain LoRA adapter."""
    if is_plain(module, Linear):
        return True
    base = base_of(module)
    if not is_plain(base, Linear) or not base.weight.is_floating_point():
        return False
    from peft.tuners.lora.layer import Linear as Adapted

    if not is_plain(module, Adapted) or len(module.active_adapters) != 1 or module.disable_adapters or module.merged:
        return False
    name = module.active_adapters[0]
    if name not in module.lora_A:
        return False
    two = module.lora_A[name], module.lora_B[name]
    return all(is_plain(one, Linear) and one.bias is None for one in two) and not module.lora_variant


def base_of(module: Any) -> Any:
    """The module that an adapter layer wraps, or the module itself."""
    return getattr(module, "base_layer", module)
