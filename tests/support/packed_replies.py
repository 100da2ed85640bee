"""Replies behind shared prompts, and the sizes of a small model that reads them packed."""

from random import Random

import torch

from selfplay.engines.packing import Packed, PackingPlanner

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def replies_to(lengths: list[int], most: int, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Up to five replies of one to nine tokens behind prompts of these lengths."""
    rng, prompts, said = Random(seed), [], []
    for length in lengths:
        prompt = torch.tensor([rng.randrange(90) for _ in range(length)])
        for _ in range(rng.randint(1, most)):
            prompts.append(prompt)
            said.append([rng.randrange(90) for _ in range(rng.randint(1, 9))])
    width = max(map(len, said))
    ids = torch.tensor([reply + [0] * (width - len(reply)) for reply in said])
    return prompts, ids, torch.arange(width)[None] < torch.tensor(list(map(len, said)))[:, None]


def a_tree_a_row(prompts: list[torch.Tensor], replies: torch.Tensor, mask: torch.Tensor) -> Packed:
    planner = PackingPlanner(prompts, replies, mask)
    return planner.packed(planner.apart())
