"""Train the ladder's model from nothing: skills first, then habitual mistakes.

    python experiments/ladder/pretrain.py --out build/ladder

The skills stage learns right answers at all levels and questions of all levels. In the habits stage, every operation
of an answer is the typical mistake with probability 1/2, so that an answer at level k is right about once in 2^k. The
tokenizer, the architecture and the optimizers are those of experiments/tiny_model.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from random import Random

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny_model"))
from corpus import Encoder, Pair
from pretrain import batches, model, save, train
from tokenizer import build

from selfplay.engines.memory import keep_freed_memory
from selfplay.tasks.ladder import question, steps

CHALLENGE = "Write one question."  # the prompt of conf/prompts/tiny.yaml
LEVELS = range(1, 9)
HABIT = 0.5  # probability of the typical mistake at each operation in the second stage


def pairs(rng: Random, count: int, habit: float) -> list[Pair]:
    """Conversations: four of five with the Solver, the others with the Challenger; all levels equally often."""
    out: list[Pair] = []
    for _ in range(count):
        text = question(rng, rng.choice(LEVELS))
        answer = " ".join(steps(*text.split(), mistaken=lambda: rng.random() < habit))
        out.append((text, answer) if rng.random() < 0.8 else (CHALLENGE, text))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--habit-steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--habit-lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    tokenizer = build()
    encoder = Encoder(tokenizer)
    lm = model(len(tokenizer), encoder.end, encoder.pad)
    for stage, count, lr, habit in (
        ("skills", args.steps, args.lr, 0.0),
        ("habits", args.habit_steps, args.habit_lr, HABIT),
    ):
        stream = batches(encoder, Random(f"{args.seed}/{stage}"), args.batch, partial(pairs, habit=habit))
        train(lm, stream, stage, count, lr)
        save(lm, tokenizer, args.out.with_name(f"{args.out.name}-{stage}") if stage == "skills" else args.out)


if __name__ == "__main__":
    main()
