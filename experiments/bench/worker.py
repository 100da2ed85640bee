"""One side of a comparison, in a process of its own: one step for each line that it reads, and what the step took.

Started by bench.py. Every side has the same model, the same prompts (text, no chat template), N x G replies of exactly
`--reply` tokens (nothing ends early), a reward that is a number made of the text, and AdamW.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from selfplay.lm.load import load_model, load_tokenizer, resolve

ROOT = Path(__file__).parents[2]
RATE = 1e-6


def prompts_of(tokenizer: PreTrainedTokenizerBase, count: int, length: int) -> list[str]:
    """Texts of exactly `length` tokens each."""
    rng, found = random.Random(0), []
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if len(tokenizer.encode(c, add_special_tokens=False)) == 1]
    while len(found) < count:
        text = " ".join(rng.choice(letters) for _ in range(length))
        ids = tokenizer.encode(text, add_special_tokens=False)[:length]
        text = tokenizer.decode(ids)
        if len(tokenizer.encode(text, add_special_tokens=False)) == length and text not in found:
            found.append(text)
    return found


def value(text: str) -> float:
    """A reward that differs from reply to reply."""
    return float(sum(map(ord, text)) % 17) / 4


def peak() -> int:
    """The most memory that this process had, in bytes: of the accelerator where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def serve(step: Callable[[], dict[str, Any]]) -> None:
    """A step for each line of input; a line of output each."""
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        synchronise()
        start = time.perf_counter()
        told = step()
        synchronise()
        print(json.dumps(told | {"seconds": time.perf_counter() - start, "peak": peak()}), flush=True)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- this project -----------------------------------------------------------------------------------------------------


def ours(args: argparse.Namespace) -> None:
    """Play, collate, update, as run.py does; with --sample only play."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from selfplay.core import Ask, Episode, Turn, user
    from selfplay.lm.memory import keep_freed_memory
    from selfplay.play import collate
    from selfplay.players.language_model import LanguageModel

    class Endless(LanguageModel):
        """Reads texts without a chat template, and never stops before `max_tokens`."""

        stop_ids = property(lambda self: [-1])  # type: ignore[assignment]

        def render(self, messages: Any) -> tuple[int, ...]:
            return tuple(self.tokenizer.encode(messages[-1]["content"], add_special_tokens=False))

    keep_freed_memory()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            [
                "game=dataset",
                "update=grpo",
                f"regularizer={'kl_forward' if args.kl else 'none'}",
                f"player.path={args.model}",
                f"player.max_tokens={args.reply}",
                f"player.dtype={args.dtype}",
                f"player.rows={args.queries * args.answers}",
                f"device={args.device}",
                f"update.micro_batch={args.micro_batch or args.queries * args.answers}",
                f"update.optimizer.lr={RATE}",
                *(["+player.lora={r: 16, lora_alpha: 32, target_modules: all-linear}"] if args.lora else []),
                *args.override,
            ],
        )
    player = Endless(**_arguments(cfg.player))
    update = instantiate(cfg["update"])(policy=player, reference=player.snapshot(), roles=("solver",))
    prompts = prompts_of(player.tokenizer, args.queries, args.prompt)
    done = 0

    def step() -> dict[str, Any]:
        nonlocal done
        done += 1
        asks = [
            Ask("solver", user(prompt), group=number, key=f"{done}/{number}/{k}")
            for number, prompt in enumerate(prompts)
            for k in range(args.answers)
        ]
        start = time.perf_counter()
        replies = player.act(asks)
        played = time.perf_counter()
        if args.sample:
            return {"tokens": sum(len(reply.reply_ids) for reply in replies)}
        turns = [Turn(ask, reply, {}, value(reply.text), "learner") for ask, reply in zip(asks, replies, strict=True)]
        metrics = update.step(collate([(Episode(i // args.answers, []), turn) for i, turn in enumerate(turns)], "learner"))
        return {
            "tokens": sum(len(reply.reply_ids) for reply in replies),
            "play": played - start,
            "update": time.perf_counter() - played,
            "drift": metrics["drift"],
        }

    serve(step)


def _arguments(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(name): given for name, given in found.items() if name != "_target_"}


# --- the others -------------------------------------------------------------------------------------------------------


def trl(args: argparse.Namespace) -> None:
    """TRL's GRPOTrainer, which waits for a line before each step."""
    import tempfile

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = load_tokenizer(args.model)
    prompts = prompts_of(tokenizer, args.queries, args.prompt)
    rows = args.queries * args.answers
    micro = args.micro_batch or rows
    settings: dict[str, Any] = {
        "num_generations": args.answers,
        "max_completion_length": args.reply,
        "generation_kwargs": {"min_new_tokens": args.reply},
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "learning_rate": RATE,
    }
    if not args.trl_defaults:
        settings |= {
            "bf16": args.dtype == "bfloat16",
            "gradient_checkpointing": False,
            "beta": 0.04 if args.kl else 0.0,
            "loss_type": "grpo",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 1.0,
        }
    if args.lora:
        from peft import LoraConfig

        adapter = {"peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")}
    else:
        adapter = {}

    class Turns(TrainerCallback):  # type: ignore[misc]
        """Wait, and tell the time."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not sys.stdin.readline():
                sys.exit(0)
            synchronise()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise()
            told = {"tokens": rows * args.reply, "seconds": time.perf_counter() - self.start, "peak": peak()}
            print(json.dumps(told), flush=True)

    lengths: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        assert set(lengths) == {args.reply}, f"replies of {set(lengths)} tokens"
        return [value(text) for text in completions]

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(resolve(args.model)),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=args.device == "cpu",
                max_steps=10_000,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                shuffle_dataset=False,
                **settings,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts * 2}),
            processing_class=tokenizer,
            callbacks=[Turns()],
            **adapter,
        )
        print(json.dumps({"ready": True, "bf16": bool(trainer.args.bf16)}), flush=True)
        trainer.train()


def generate(args: argparse.Namespace) -> None:
    """Sampling by transformers' `generate`: one row a reply."""
    tokenizer = load_tokenizer(args.model)
    model = load_model(AutoModelForCausalLM, args.model, args.dtype, args.device, "sdpa")
    prompts = [p for p in prompts_of(tokenizer, args.queries, args.prompt) for _ in range(args.answers)]
    ids = torch.tensor([tokenizer.encode(p, add_special_tokens=False) for p in prompts], device=args.device)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": args.reply, "min_new_tokens": args.reply}

    def step() -> dict[str, Any]:
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
        assert out.shape[1] == args.prompt + args.reply
        return {"tokens": len(prompts) * args.reply}

    serve(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "trl", "generate"])
    parser.add_argument("--model", default="asset:tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--reply", type=int, default=48)
    parser.add_argument("--micro-batch", type=int, default=0)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--kl", action="store_true")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--trl-defaults", action="store_true")
    parser.add_argument("--override", nargs="*", default=[])
    args = parser.parse_args()
    {"ours": ours, "trl": trl, "generate": generate}[args.side](args)


if __name__ == "__main__":
    main()
