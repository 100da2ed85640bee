"""This project's side: play, collate and update as run.py does; or play alone."""

import argparse
import time
from typing import Any

from stage import LORA, RATE, ROOT, prompts_of, ready, serve, synchronise, value


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
        f"player.compute_dtype={'bfloat16' if half else 'null'}",
        f"player.batch_size={rows}",
        f"device={args.device}",
        f"update.micro_batch={args.micro_batch or rows}",
        f"update.optimizer.lr={RATE}",
        *(["player.lora={" + ", ".join(f"{k}: {v}" for k, v in LORA.items()) + "}"] if args.lora else []),
        *args.override,
    ]


def endless(cfg: Any) -> Any:
    """The player of a config, which reads texts without a chat template and never stops before `max_tokens`."""
    from omegaconf import OmegaConf

    from selfplay.building import make
    from selfplay.players.language_model import LanguageModel

    class Endless(LanguageModel):
        stop_ids = property(lambda self: (-1,))  # type: ignore[assignment]

        def render(self, messages: Any) -> tuple[int, ...]:
            return tuple(self.tokenizer.encode(messages[-1]["content"], add_special_tokens=False))

    given = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(given, dict)
    given["engine"] = make(cfg.engine, "engine")
    return Endless(**{str(name): what for name, what in given.items() if name != "_target_"})


def ours(args: argparse.Namespace) -> None:
    """Play, collate, update, as run.py does; with --sample only play."""
    from hydra import compose, initialize_config_dir

    from selfplay.building import make_later
    from selfplay.core import Ask, Episode, Turn, user
    from selfplay.engines.memory import keep_freed_memory
    from selfplay.rollout import collate

    keep_freed_memory()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides(args))
    player = endless(cfg.player)
    if not args.sample:
        update = make_later(cfg["update"], "update")(policy=player, reference=player.snapshot(), roles=("solver",))
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
        metrics = update.step(batch).metrics
        synchronise(args.device)
        return told | {"update": time.perf_counter() - played, "logprob_mismatch": metrics["logprob_mismatch"]}

    ready(player.model)
    serve(step, args.device)
