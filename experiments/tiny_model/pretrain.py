"""Train the embedded language model from nothing, on two cores.

    python experiments/tiny_model/pretrain.py --out src/selfplay/assets/tiny

Two stages. "Skills": right answers (below level 4), questions to write, answers to judge. "Habits": the same, but the
solver's answers are often the typical mistake of their family. What remains is latent skill under habitual error,
which self-play can bring out. `measure.py` prints what the result can do.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import torch
from corpus import Encoder, Pair, pairs
from muon import Muon
from tokenizer import build
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from selfplay.engines.memory import keep_freed_memory


def model(vocabulary: int, end: int, pad: int) -> LlamaForCausalLM:
    """Llama architecture, 0.86 M parameters, float32."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        attention_dropout=0.0,
    )
    return LlamaForCausalLM(config)


def batches(encoder: Encoder, rng: Random, size: int, pairs: Callable[[Random, int], list[Pair]]):
    """Endless batches of conversations of like length: a pool of sixteen is sorted, sliced and shuffled."""
    while True:
        pool = sorted(pairs(rng, 16 * size), key=lambda p: len(p[0]) + len(p[1]))
        slices = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(slices)
        yield from (encoder.batch(part) for part in slices)


def optimizers(lm: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for n, p in lm.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for p in lm.parameters() if not any(p is m for m in matrices)]
    return [
        Muon(matrices, lr=lr),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(lm, stream, stage: str, steps: int, lr: float) -> None:
    """One stage on a stream of batches: linear warm-up, cosine to a twentieth of the learning rate."""
    opts = optimizers(lm, lr)
    warm_up, start, running = min(100, steps // 10 + 1), time.time(), 0.0
    for step in range(1, steps + 1):
        progress = max(0.0, (step - warm_up) / max(1, steps - warm_up))
        factor = min(step / warm_up, 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)
        ids, labels = next(stream)
        hidden = lm.model(ids).last_hidden_state[:, :-1]
        on = labels[:, 1:] != -100
        loss = cross_entropy(lm.lm_head(hidden[on]), labels[:, 1:][on])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = lr * factor
            opt.step()
            opt.zero_grad(set_to_none=True)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            print(f"{stage} {step}/{steps} loss {running:.4f} {time.time() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skills-from", type=Path, help="a folder with the result of the first stage, to skip it")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--habit-steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--habit-lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(args.seed)
    tokenizer = build()
    encoder = Encoder(tokenizer)
    if args.skills_from:
        lm = LlamaForCausalLM.from_pretrained(args.skills_from)
    else:
        lm = model(len(tokenizer), encoder.end, encoder.pad)
        print(f"{sum(p.numel() for p in lm.parameters()):,} parameters", flush=True)
        skills = batches(encoder, Random(f"{args.seed}/skills"), args.batch, partial(pairs, habits=False))
        train(lm, skills, "skills", args.steps, args.lr)
        save(lm, tokenizer, args.out.with_name(args.out.name + "-skills"))
    habits = batches(encoder, Random(f"{args.seed}/habits"), args.batch, partial(pairs, habits=True))
    train(lm, habits, "habits", args.habit_steps, args.habit_lr)
    save(lm, tokenizer, args.out)


def save(lm, tokenizer, folder: Path) -> None:
    lm.generation_config.max_length = None
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"saved {folder}", flush=True)


if __name__ == "__main__":
    main()
