"""One side of a comparison, in a process of its own: one step for each line that it reads, and what the step took.

Started by bench.py. Every side has the same model, the same prompts (texts of exactly `--prompt` tokens, no chat
template), N x G replies of exactly `--reply` tokens (nothing ends early), a reward made of a reply's tokens, AdamW, and
one optimizer step a step. With `--dtype bfloat16` ours and TRL compute in it over float32 weights; `generate` loads the
weights in it.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from selfplay.core import SelfplayError
from selfplay.lm.load import load_model, load_tokenizer, resolve

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
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def synchronise(device: str) -> None:
    if device != "cpu":
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


# --- this project -----------------------------------------------------------------------------------------------------


def overrides(args: argparse.Namespace) -> list[str]:
    """What the configuration is told: GRPO on given prompts."""
    rows = args.queries * args.answers
    half = args.dtype == "bfloat16"
    return [
        "game=dataset",
        "update=grpo",
        f"regularizer={'kl_forward' if args.kl else 'none'}",
        *([] if args.kl else ["update.measure_kl=false"]),
        f"player.path={args.model}",
        f"player.max_tokens={args.reply}",
        "player.dtype=float32",
        f"player.compute={'bfloat16' if half else 'null'}",
        f"player.rows={rows}",
        f"device={args.device}",
        f"update.micro_batch={args.micro_batch or rows}",
        f"update.optimizer.lr={RATE}",
        *(["player.lora={" + ", ".join(f"{k}: {v}" for k, v in LORA.items()) + "}"] if args.lora else []),
        *args.override,
    ]


def endless(cfg: Any) -> Any:
    """The player of a config, which reads texts without a chat template and never stops before `max_tokens`."""
    from omegaconf import OmegaConf

    from selfplay.players.language_model import LanguageModel

    class Endless(LanguageModel):
        stop_ids = property(lambda self: [-1])  # type: ignore[assignment]

        def render(self, messages: Any) -> tuple[int, ...]:
            return tuple(self.tokenizer.encode(messages[-1]["content"], add_special_tokens=False))

    given = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(given, dict)
    return Endless(**{str(name): what for name, what in given.items() if name != "_target_"})


def ours(args: argparse.Namespace) -> None:
    """Play, collate, update, as run.py does; with --sample only play."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from selfplay.core import Ask, Episode, Turn, user
    from selfplay.lm.memory import keep_freed_memory
    from selfplay.play import collate

    keep_freed_memory()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides(args))
    player = endless(cfg.player)
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
        synchronise(args.device)
        played = time.perf_counter()
        assert all(len(reply.reply_ids) == args.reply for reply in replies)
        told = {"tokens": len(replies) * args.reply, "play": played - start}
        if args.sample:
            return told
        turns = [
            Turn(ask, reply, {}, value(reply.reply_ids), "learner") for ask, reply in zip(asks, replies, strict=True)
        ]
        episodes = [Episode(number, []) for number in range(args.queries)]
        batch = collate([(episodes[i // args.answers], turn) for i, turn in enumerate(turns)], "learner")
        metrics = update.step(batch)
        synchronise(args.device)
        return told | {"update": time.perf_counter() - played, "drift": metrics["drift"]}

    ready(player.model)
    serve(step, args.device)


# --- the others -------------------------------------------------------------------------------------------------------


def trl_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Of GRPOConfig: the sizes; and, unless --trl-defaults, precision and memory as ours has them."""
    rows = args.queries * args.answers
    micro = args.micro_batch or rows
    sizes: dict[str, Any] = {
        "num_generations": args.answers,
        "max_completion_length": args.reply,
        "generation_kwargs": {"min_new_tokens": args.reply},
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "learning_rate": RATE,
    }
    if args.trl_defaults:
        return sizes
    return sizes | {
        "bf16": args.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "beta": 0.04 if args.kl else 0.0,
        "loss_type": "grpo",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
    }


def trl_config(args: argparse.Namespace, folder: str) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        use_cpu=args.device == "cpu",
        max_steps=10_000,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        **trl_settings(args),
    )


def turns_of_trl(args: argparse.Namespace) -> Any:
    """Wait for a line before a step, and tell its time: the trainer generates between the two calls."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not sys.stdin.readline():
                sys.exit(0)
            synchronise(args.device)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronise(args.device)
            taken = time.perf_counter() - self.start
            tell(tokens=args.queries * args.answers * args.reply, seconds=taken, peak=peak(args.device))

    return Turns()


def trl(args: argparse.Namespace) -> None:
    """TRL's GRPOTrainer, which waits for a line before each step."""
    import tempfile

    try:
        from datasets import Dataset
        from trl import GRPOTrainer
    except ImportError as error:
        raise SelfplayError(f"{error.name} is not installed; install it with: pip install 'selfplay[bench]'") from error

    tokenizer = load_tokenizer(args.model)
    prompts = prompts_of(tokenizer, args.queries, args.prompt)
    assert all(len(tokenizer(text)["input_ids"]) == args.prompt for text in prompts)  # this is how TRL reads them
    adapter = {}
    if args.lora:
        from peft import LoraConfig

        adapter = {"peft_config": LoraConfig(**LORA, task_type="CAUSAL_LM")}

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert len(completion_ids) == args.queries * args.answers and {*map(len, completion_ids)} == {args.reply}
        return [value(ids) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(resolve(args.model)),
            reward_funcs=reward,
            args=trl_config(args, folder),
            train_dataset=Dataset.from_dict({"prompt": prompts * 2}),
            processing_class=tokenizer,
            callbacks=[turns_of_trl(args)],
            **adapter,
        )
        used = {name: getattr(trainer.args, name) for name in ("bf16", "gradient_checkpointing", "beta", "loss_type")}
        ready(trainer.model, used=used | {"optimizer": str(trainer.args.optim)})
        trainer.train()


def generate(args: argparse.Namespace) -> None:
    """Sampling by transformers' `generate`: one row a reply."""
    tokenizer = load_tokenizer(args.model)
    model = load_model(AutoModelForCausalLM, args.model, args.dtype, args.device, "sdpa")
    prompts = [p for p in prompts_of(tokenizer, args.queries, args.prompt) for _ in range(args.answers)]
    ids = torch.tensor([tokenizer.encode(p, add_special_tokens=False) for p in prompts], device=args.device)
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    options = plain | {"max_new_tokens": args.reply, "min_new_tokens": args.reply}

    def step() -> dict[str, Any]:
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        assert out.shape[1] == args.prompt + args.reply
        return {"tokens": len(prompts) * args.reply}

    ready(model)
    serve(step, args.device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "trl", "generate"])
    parser.add_argument("--model", default="asset:tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--reply", type=int, default=48)
    parser.add_argument("--micro-batch", type=int, default=0, help="replies in one backward pass; 0: all")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument(
        "--kl", action="store_true", help="a penalty on the divergence from the reference, on both sides"
    )
    parser.add_argument("--sample", action="store_true", help="ours: only play")
    parser.add_argument("--trl-defaults", action="store_true", help="only the sizes are ours")
    parser.add_argument("--override", nargs="*", default=[], help="more for ours' configuration")
    return parser.parse_args()


def main() -> None:
    global TOLD
    TOLD = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    args = arguments()
    try:
        {"ours": ours, "trl": trl, "generate": generate}[args.side](args)
    except SelfplayError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
