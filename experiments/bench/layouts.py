"""Long prompts with many replies: rows under a mask against a row for each prompt with attention branch by branch.

    python experiments/bench/layouts.py                 layouts.json beside this file; two minutes on two cores

A forward and a backward pass of four layers of SmolLM2-135M's size with weights of chance, by turns; what the costs say
that decide between the two (`selfplay.engines.packing`) stands beside what was measured.
"""

import json
import random
import time
from pathlib import Path
from statistics import median

import torch
from machine import facts
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from selfplay.engines.llama.layers import can_branch, has_own_layers, states_at
from selfplay.engines.memory import keep_freed_memory
from selfplay.engines.packing import Packed, PackingPlanner, branched_cost, masked_cost

ROUNDS = 5
UNEVEN = random.Random(0)
Spec = list[tuple[int, list[int]]]  # tokens of each prompt, and of each of its replies
CASES: dict[str, Spec] = {
    "16 replies of 48 to a prompt of 512": [(512, [48] * 16)],
    "three such prompts, one with a reply less": [(512, [48] * 16), (512, [48] * 16), (512, [48] * 15)],
    "prompts of 512, 300 and 420": [(512, [48] * 16), (300, [48] * 16), (420, [48] * 16)],
    "three of 512, replies of 8 to 64": [(512, [UNEVEN.randint(8, 64) for _ in range(16)]) for _ in range(3)],
    "eight of 200 to 400, eight replies of 8 to 64": [
        (UNEVEN.randint(200, 400), [UNEVEN.randint(8, 64) for _ in range(8)]) for _ in range(8)
    ],
    "96 replies of 32 to a prompt of 20": [(20, [32] * 96)],
    "one of 700, twenty of 20": [(700, [40] * 8), *[(20, [30] * 8)] * 20],
    "one reply of 300 among fifteen of 48": [(512, [*[48] * 15, 300])],
}


def of(spec: Spec) -> PackingPlanner:
    """Prompts and replies of so many tokens of chance."""
    prompts, said = [], []
    for length, lengths in spec:
        prompt = torch.randint(0, 1000, (length,))
        prompts += [prompt] * len(lengths)
        said += [torch.randint(0, 1000, (n,)) for n in lengths]
    replies = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
    return PackingPlanner(
        prompts, replies, torch.arange(replies.shape[1]) < torch.tensor(list(map(len, said)))[:, None]
    )


def seconds(model: PreTrainedModel, packed: Packed) -> float:
    start = time.perf_counter()
    states_at(model, packed, packed.rows[packed.mask], packed.columns[packed.mask]).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return time.perf_counter() - start


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(**sizes, vocab_size=1000, num_hidden_layers=4, max_position_embeddings=8192)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert has_own_layers(model) and can_branch(model)
    found = {}
    for name, spec in CASES.items():
        planner = of(spec)
        plans = planner.close(), planner.apart()
        rows = [planner.packed(plan) for plan in plans]
        times = [[seconds(model, packed) for packed in rows] for _ in range(1 + ROUNDS)][1:]
        masked, branched = (median(column) for column in zip(*times, strict=True))
        found[name] = {
            "masked": {"rows": list(rows[0].ids.shape), "seconds": masked},
            "branched": {"rows": list(rows[1].ids.shape), "seconds": branched},
            "ratio": branched / masked,
            "ratio of costs": branched_cost(plans[1]) / masked_cost(len(plans[0].rows), plans[0].width),
        }
        told = found[name]
        print(f"{name:46s} {told['ratio']:.2f} measured, {told['ratio of costs']:.2f} by the costs", flush=True)
    path = Path(__file__).parent / "layouts.json"
    path.write_text(json.dumps({**facts("cpu"), "cases": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
