"""The table of docs/scale.md: the peak memory of a process by size of the model, way to train it and processes.

python -m selfplay.memory.table                  prints the table in Markdown
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from selfplay.composing import compose
from selfplay.memory.configured import Given, setup_of
from selfplay.memory.model import llama_of
from selfplay.memory.phases import PHASES, Setup, phases, total
from selfplay.memory.remedies import LORA_TEXT

MODELS = {  # name -> layers, hidden, intermediate, heads, key and value heads, vocabulary, tied embeddings
    "0.5 B (Qwen2.5)": (24, 896, 4864, 14, 2, 151_936, True),
    "1.5 B (Qwen2.5)": (28, 1536, 8960, 12, 2, 151_936, True),
    "3 B (Llama 3.2)": (28, 3072, 8192, 24, 8, 128_256, True),
    "8 B (Llama 3.1)": (32, 4096, 14_336, 32, 8, 128_256, False),
}
COMMON = ("player=hf", "reward=none", "quality=none", "device=cuda", "player.gradient_checkpointing=true")
WAYS = {
    "full": (*COMMON, "player.compute_dtype=bfloat16"),
    "LoRA": (*COMMON, "player.dtype=bfloat16", LORA_TEXT.strip("'")),
}
PROCESSES = (1, 2, 8)


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """Model, way to train it, and for each number of processes the peak in GiB with the phase that has it."""
    for name, (layers, hidden, intermediate, heads, kv_heads, vocabulary, tied) in MODELS.items():
        config = llama_of(None, layers, hidden, intermediate, heads, kv_heads, vocabulary, tied)
        for way, options in WAYS.items():
            one = setup_of(compose(*options), Given(config=config))
            assert one is not None
            several = [one if n == 1 else replace(one, parallel="fsdp", processes=n) for n in PROCESSES]
            yield name, way, [cell(setup) for setup in several]


def cell(setup: Setup) -> str:
    sums = {phase: total(parts) / 2**30 for phase, parts in phases(setup).items()}
    phase = max(PHASES, key=lambda name: sums[name])
    return f"{sums[phase]:.1f} ({phase})"


def markdown() -> str:
    """The table."""
    shown = ["1 process", *(f"{n} processes, fsdp" for n in PROCESSES[1:])]
    lines = [f"| model | trained | {' | '.join(shown)} |", f"| --- | --- |{' ---: |' * len(PROCESSES)}"]
    return "\n".join([*lines, *(f"| {name} | {way} | {' | '.join(cells)} |" for name, way, cells in rows())])


if __name__ == "__main__":
    print(markdown())
