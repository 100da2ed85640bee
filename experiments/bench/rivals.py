"""The others: TRL's GRPOTrainer, and sampling by transformers' `generate`."""

import argparse
import sys
import time
from typing import Any

import torch
from stage import LORA, RATE, peak, prompts_of, ready, serve, synchronise, tell, value
from transformers import AutoModelForCausalLM

from selfplay.core import SelfplayError
from selfplay.models.load import load_model, load_tokenizer, resolve


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
