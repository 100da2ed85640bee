"""How often a token step would be recorded as a CUDA graph, and how many steps each recording serves.

    python experiments/gpu/recordings.py

It runs on a processor: what is recorded is computed anew at each replay. The model has the embedded one's sizes and
random weights, so that tokens are nearly uniform and a reply ends with probability 1 / vocabulary at each.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from selfplay.engines.engine import Sampling
from selfplay.engines.llama import graphs
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.sampling import sample
from selfplay.engines.truncation import ALL
from selfplay.models.load import resolve

MOST, PROMPT = 256, 100  # tokens
CASES = {  # prompts, replies to each, whether replies end, rows
    "8 x 8, all of 256 tokens": (8, 8, False, 64),
    "8 x 8": (8, 8, True, 64),
    "8 x 8, 32 rows": (8, 8, True, 32),
    "32 x 8": (32, 8, True, 256),
}
counts: Counter[str] = Counter()


def capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    counts["recordings"] += 1
    return compute


class Counted(graphs.RecordedSteps):
    def step(self, state: Any, tokens: Tensor) -> Tensor | None:
        found = super().step(state, tokens)
        counts["steps not recorded" if found is None else "steps recorded"] += 1
        return found


def main() -> None:
    from selfplay.engines.llama import kv_sharing

    kv_sharing.RecordedSteps = Counted  # type: ignore[misc]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(resolve("asset:tiny"))).eval()
    for name, (prompts, answers, ends, rows) in CASES.items():
        counts.clear()
        texts = [tuple((7 * i + j) % 80 + 5 for j in range(PROMPT)) for i in range(prompts) for _ in range(answers)]
        how = Sampling(MOST, 1.0, ALL, (0,) if ends else (), 0, rows)
        found = sample(Decoder(model, torch.float32, capture=capture), texts, list(map(str, range(len(texts)))), how)
        print(f"{name}: {dict(counts)}, mean length {sum(len(one.ids) for one in found) / len(found):.0f}")


if __name__ == "__main__":
    main()
