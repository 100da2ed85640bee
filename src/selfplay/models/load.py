"""Loads models and tokenizers by hub id, folder, `asset:<name>` (embedded) or `cache:smollm2` (converted)."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from selfplay import digests
from selfplay.core import SelfplayError
from selfplay.devices import allow_tf32, device_map_of
from selfplay.models import smollm2

ASSET, SMOLLM2 = "asset:", "cache:smollm2"
ATTENTION = ("sdpa", "eager", "flash_attention_2")
transformers_logging.disable_progress_bar()


def resolve(name: str) -> str:
    """The folder of an embedded or converted model; other names unchanged.

    Raises:
        SelfplayError: there is no such asset, or SmolLM2 has not been converted yet.
    """
    if name == SMOLLM2:
        if not (smollm2.folder() / "config.json").is_file():
            raise SelfplayError(f"the model '{name}' is not in {smollm2.cache()} yet; create it with: make smollm2")
        return str(smollm2.folder())
    if not name.startswith(ASSET):
        return name
    folder = Path(str(files("selfplay") / "assets"))
    path = folder / name.removeprefix(ASSET)
    if not (path / "config.json").is_file():
        have = ", ".join(sorted(f"{ASSET}{p.name}" for p in folder.glob("*") if p.is_dir())) or "none"
        raise SelfplayError(f"there is no embedded model '{name}' (there are: {have})")
    return str(path)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer, which must have a chat template and an end token.

    Raises:
        SelfplayError: it cannot be loaded, or lacks one of them.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise SelfplayError(_unloadable(name, "tokenizer", error)) from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise SelfplayError(f"the tokenizer of '{name}' has no chat template or no end token; use a chat model")
    return tokenizer


def load_model(auto: Any, name: str, dtype: str, device: str, attention: str, **options: Any) -> PreTrainedModel:
    """Load a model in eval mode onto a device.

    Args:
        auto: a transformers Auto class.
        name: hub id, folder, `asset:<name>` or `cache:smollm2`.
        dtype: of the weights, such as "float32".
        device: of the model.
        attention: attention implementation, one of ATTENTION.
        options: further arguments of `from_pretrained`.

    Raises:
        SelfplayError: the model cannot be loaded, or weights are missing or have a different shape; transformers would
            initialise those randomly.
    """
    model, info = load_incomplete(auto, name, dtype, device, attention, **options)
    if reason := lacking(info):
        raise SelfplayError(
            f"the model '{name}' is incomplete for {type(model).__name__} ({reason}), and missing weights would be "
            "initialised randomly; give a model that was trained for this use"
        )
    return model


def load_incomplete(
    auto: Any, name: str, dtype: str, device: str, attention: str, **options: Any
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """As `load_model`, but return the loading info of transformers instead of checking it; see `lacking`.

    Raises:
        SelfplayError: the model cannot be loaded.
    """
    if attention not in ATTENTION:
        raise SelfplayError(f"the attention of '{name}' is '{attention}'; take one of {', '.join(ATTENTION)}")
    place = resolve(name)
    digests.check(Path(place), "take another checkpoint")
    try:
        with quiet():
            if auto is AutoModelForCausalLM and AutoConfig.from_pretrained(place).is_encoder_decoder:
                raise SelfplayError(
                    f"the model '{name}' is an encoder-decoder, and would be loaded without its encoder; "
                    "choose a decoder-only chat model (Llama, Qwen, Mistral, SmolLM and the like)"
                )
            model, info = auto.from_pretrained(
                place,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                device_map=device_map_of(device),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except ImportError as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(
            f"the model '{name}' cannot be loaded with attention={attention} ({reason}); take attention=sdpa, or "
            "install it with: pip install flash-attn"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if "attention implementation" in str(error):
            raise SelfplayError(
                f"the architecture of '{name}' does not support attention={attention}; take attention=eager, which is "
                "always supported"
            ) from error
        raise SelfplayError(_unloadable(name, "model", error)) from error
    if unused := sorted(info["unexpected_keys"]):
        warnings.warn(
            f"the model '{name}' has weights that {type(model).__name__} does not use: {some(unused)}", stacklevel=3
        )
    allow_tf32(model.device)
    return model.to(device).eval(), info


def lacking(info: Mapping[str, Any]) -> str:
    """A description of weights that a folder lacked or had in a different shape, or "".

    Args:
        info: loading info of `from_pretrained(..., output_loading_info=True)`, which omits tied and recomputed weights.
    """
    missing = sorted(info["missing_keys"])
    other = [f"{name} {list(there)} instead of {list(here)}" for name, there, here in sorted(info["mismatched_keys"])]
    found = [f"missing: {some(missing)}"] * bool(missing) + [f"of another shape: {some(other)}"] * bool(other)
    return "; ".join([*found, *map(str, info["error_msgs"])])


def some(names: Collection[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' loading report; this module reports the relevant parts."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(max(before, transformers_logging.ERROR))
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _unloadable(name: str, what: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:200]
    return f"the {what} '{name}' cannot be loaded ({reason}); give a hub id, a folder with its files, or asset:tiny"
