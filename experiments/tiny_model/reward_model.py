"""Train the reward model on preference pairs of the tiny world (Bradley-Terry), from the embedded model's skills.

    python experiments/tiny_model/reward_model.py --base <skills folder> --out src/selfplay/assets/tiny-rm

Each pair is one question with a right and a wrong answer (the typical mistake, a slip of the pen, somebody else's
answer). It never sees a held-out question, nor anything that is no question of this world.
"""

import argparse
import time
from pathlib import Path
from random import Random

import torch
from corpus import Encoder, garble
from tokenizer import build
from torch.nn.functional import logsigmoid
from transformers import LlamaForSequenceClassification

from selfplay.engines.memory import keep_freed_memory
from selfplay.tasks.tiny_world import Question, draw

CENTRE = 0.01  # weight of (r_right + r_wrong)^2, which keeps logits near 0 (Eisenstein et al. 2023)


def wrong_answer(rng: Random, question: Question) -> str:
    """A wrong answer: the typical mistake, a slip of the pen, or the answer to something else."""
    while True:
        kind = rng.random()
        if kind < 0.45:
            answer = question.mistake
        elif kind < 0.85:
            answer = garble(rng, question.answer)
        else:
            answer = draw(rng, question.family, question.level).answer
        if answer != question.answer:
            return answer


def pairs(rng: Random, count: int) -> list[tuple[str, str, str]]:
    """(question, right, wrong), sorted by length in pools so that little is padding."""
    questions = [draw(rng) for _ in range(count)]
    return [(q.text, q.answer, wrong_answer(rng, q)) for q in sorted(questions, key=lambda q: len(q.text))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    tokenizer = build()
    encoder = Encoder(tokenizer)
    model = LlamaForSequenceClassification.from_pretrained(args.base, num_labels=1)
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    warm = lambda step: min(step / 50 + 0.02, max(0.02, 1 - step / args.steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, warm)
    rng, start, running = Random(f"reward-model/{args.seed}"), time.time(), 0.7
    pool: list[list[tuple[str, str, str]]] = []
    for step in range(1, args.steps + 1):
        if not pool:
            drawn = pairs(rng, 16 * args.batch)
            pool = [drawn[i : i + args.batch] for i in range(0, len(drawn), args.batch)]
            rng.shuffle(pool)
        part = pool.pop()
        ids, _ = encoder.batch([(q, right) for q, right, _ in part] + [(q, wrong) for q, _, wrong in part])
        right, wrong = model(input_ids=ids, attention_mask=(ids != encoder.pad).long()).logits.squeeze(-1).chunk(2)
        loss = -logsigmoid(right - wrong).mean() + CENTRE * ((right + wrong) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        opt.zero_grad(set_to_none=True)
        running = 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step}/{args.steps} loss {running:.4f} {time.time() - start:.0f} s", flush=True)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"saved {args.out}")


if __name__ == "__main__":
    main()
