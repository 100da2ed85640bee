"""Teach the embedded model to learn from examples in its prompt: a third stage, on one core.

    python experiments/tiny_model/contexts.py --out src/selfplay/assets/tiny-shots

In-context tuning (MetaICL, 2110.15943). Batches alternate: bare conversations with the habits of the second stage, in
all three roles, and dialogues in which one to four pairs are shown before a question. Behind right answers the right
one is learnt (below level 4), behind typical mistakes the typical mistake; without examples the habit stays.
"""

import argparse
from functools import partial
from pathlib import Path
from random import Random

import torch
from corpus import Encoder, dialogue, pairs
from pretrain import batches, save, train
from tokenizer import build
from transformers import LlamaForCausalLM

from selfplay.engines.memory import keep_freed_memory
from selfplay.models.load import resolve


def mixed(encoder: Encoder, rng: Random, size: int):
    """Endless batches, in turn of `size` bare conversations and of half as many dialogues of like length."""
    bare, pool = batches(encoder, rng, size, partial(pairs, habits=True)), []
    while True:
        if not pool:
            drawn = sorted(
                (dialogue(rng) for _ in range(8 * size)), key=lambda d: sum(len(q) + len(a) for q, a, _ in d)
            )
            pool = [drawn[i : i + size // 2] for i in range(0, len(drawn), size // 2)]
            rng.shuffle(pool)
        yield next(bare)
        yield encoder.dialogues(pool.pop())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="asset:tiny")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    tokenizer, lm = build(), LlamaForCausalLM.from_pretrained(resolve(args.base))
    train(lm, mixed(Encoder(tokenizer), Random(f"{args.seed}/contexts"), args.batch), "contexts", args.steps, args.lr)
    save(lm, tokenizer, args.out)


if __name__ == "__main__":
    main()
