"""What every side of a comparison has in common: prompts, a reward, and a line for each step."""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).parents[2]
RATE = 1e-6
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
TOLD = sys.stdout  # where the lines go; libraries print to the other


def prompts_of(tokenizer: PreTrainedTokenizerBase, count: int, length: int) -> list[str]:
    """Different texts of exactly `length` tokens each."""
    rng, found = random.Random(0), []
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if len(tokenizer.encode(c, add_special_tokens=False)) == 1]
    while len(found) < count:
        text = " ".join(rng.choice(letters) for _ in range(length))
        ids = tokenizer.encode(text, add_special_tokens=False)[:length]
        text = tokenizer.decode(ids)
        if len(tokenizer.encode(text, add_special_tokens=False)) == length and text not in found:
            found.append(text)
    return found


def value(ids: Sequence[int]) -> float:
    """A reward that differs from reply to reply; ours does not read a reply that has just its group's mean."""
    return sum(place * int(token) for place, token in enumerate(ids, 1)) % 9973 / 997


def peak(device: str) -> int:
    """The most memory that this process had, in bytes: of the accelerator where it is on one, else resident."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def tell(**what: Any) -> None:
    print(json.dumps(what), file=TOLD, flush=True)


def ready(model: Any, **more: Any) -> None:
    """Say that steps may begin, and the model's parameters: outside embedding and head, and of the head."""
    own = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    outside = embedding.numel() + (0 if head is embedding else head.numel())
    tell(ready=True, parameters=own - outside, head=head.numel(), threads=torch.get_num_threads(), **more)


def serve(step: Callable[[], dict[str, Any]], device: str) -> None:
    """A step for each line of input; a line of output each."""
    for _ in sys.stdin:
        synchronise(device)
        start = time.perf_counter()
        told = step()
        synchronise(device)
        tell(**told, seconds=time.perf_counter() - start, peak=peak(device))
