"""Loading models and tokenizers by hub id, folder, `asset:<name>` (embedded here) or `cache:smollm2` (made here)."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from selfplay.core import SelfplayError
from selfplay.lm import smollm2

ASSET, SMOLLM2 = "asset:", "cache:smollm2"
ATTENTION = ("sdpa", "eager", "flash_attention_2")
transformers_logging.disable_progress_bar()


def resolve(name: str) -> str:
    """The folder of an embedded or converted model, or the name itself.

    Raises:
        SelfplayError: no such asset, or SmolLM2 was not converted yet.
    """
    if name == SMOLLM2:
        if not (smollm2.folder() / "config.json").is_file():
            raise SelfplayError(f"the model '{name}' is not in {smollm2.cache()} yet; make it there with: make smollm2")
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
    """The tokenizer, which must have a chat template and an end token.

    Raises:
        SelfplayError: it cannot be loaded or lacks one of them.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise SelfplayError(_unloadable(name, "tokenizer", error)) from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise SelfplayError(f"the tokenizer of '{name}' has no chat template or no end token; use a chat model")
    return tokenizer


def load_model(auto: Any, name: str, dtype: str, device: str, attention: str, **options: Any) -> PreTrainedModel:
    """A model of the given Auto class, in eval mode on the device, without dropout.

    Raises:
        SelfplayError: it cannot be loaded.
    """
    if attention not in ATTENTION:
        raise SelfplayError(f"the attention of '{name}' is '{attention}'; take one of {', '.join(ATTENTION)}")
    try:
        model = auto.from_pretrained(
            resolve(name), dtype=getattr(torch, dtype), attn_implementation=attention, **options
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
                f"the architecture of '{name}' has no attention={attention}; take attention=eager, which all have"
            ) from error
        raise SelfplayError(_unloadable(name, "model", error)) from error
    return model.to(device).eval()


def _unloadable(name: str, what: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0][:200]
    return f"the {what} '{name}' cannot be loaded ({reason}); give a hub id, a folder with its files, or asset:tiny"
