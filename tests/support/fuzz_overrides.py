"""Override sets drawn by a seed, run in process or as command lines: each must finish or be refused in one sentence.

    python tests/support/fuzz_overrides.py --sets 1500 --seed 0
    python tests/support/fuzz_overrides.py --sets 0 --processes 80 --seed 0

A fault is a traceback, a set without an end, or nonsense that ran to its end in silence. What is nonsense is known by
construction: every value of WRONG is.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import cli

SECONDS = 60
KEY = "sk-proj-4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c"
PLAYS = {  # a few kinds of runs, small enough for a second
    "kuhn": ["game=kuhn", "player=tabular", "episodes=4"],
    "rps": ["game=matrix", "player=tabular", "rollout=exact", "episodes=1"],
    "dilemma": ["game=iterated_dilemma", "player=tabular", "game.rounds=2", "episodes=4"],
    "psro": ["game=matrix", "player=tabular", "opponent=psro", "opponent.exact=true", "opponent.every=1", "episodes=4"],
    "lsp": ["reward=verifier", "episodes=2", "game.answers=2", "player.max_tokens=8", "task.per_cell=1"],
    "dataset": [
        "game=dataset",
        "reward=verifier",
        "episodes=2",
        "game.answers=2",
        "player.max_tokens=8",
        "task.per_cell=1",
    ],
    "arithmetic": [
        "game=dataset",
        "task=arithmetic",
        "reward=verifier",
        "episodes=2",
        "game.answers=2",
        "player.max_tokens=8",
        "task.per_level=1",
    ],
}  # fmt: skip
TABLES = ("kuhn", "rps", "dilemma", "psro")

# --- values that mean something, by the kind of run; any of them may be refused beside another, none may fail ---------
FINE: dict[str, list[str]] = {
    "*": [
        "seed=0", "seed=4294967295", "steps=1", "episodes=3", "checkpoint.every=2", "checkpoint.keep=0",
        "update=grpo", "update=rloo", "update=ppo", "update=dr_grpo", "update=dapo", "update=dpo", "update=kto",
        "update=gspo", "update=cispo", "update=sapo", "update=bnpo", "update.mask_truncated=true",
        "update=sppo", "update=rejection", "update=spiral", "update=nash_md", "regularizer=none",
        "regularizer=entropy", "regularizer=kl_forward", "regularizer=kl_forward_payoff", "regularizer.beta=0",
        "schedule=cosine", "schedule=linear", "schedule=harmonic", "update.optimizer.lr=1e-3",
        "update.role_weights={}", "update.max_grad_norm=inf", "update.micro_batch=1", "update.compare=prompt",
        "+update.optimizer.nesterov=false", "update.optimizer._target_=torch.optim.RMSprop",
    ],
    "table": [
        "player.spread=0.5", "player.temperature=0.5", "eval=none", "eval.every=1", "opponent=uniform",
        "opponent=latest", "opponent=reference", "opponent=random", "opponent=recent", "opponent=pfsp",
        "meta_solver=uniform", "meta_solver=alpha_rank", "update.optimizer.lr=2", "eval.limit=100000",
    ],
    "text": [
        "player.top_k=5", "player.top_p=0.9", "player.min_p=0.1", "player.temperature=0.7", "player.batch_size=3",
        "player.stop=[x]", "game.quality_weight=0", "quality=none", "player=tiny_lora", "task.seed=3",
        "player.gradient_checkpointing=true", "probes.truth=null", "probes.invalid=null", "eval=none",
    ],
}  # fmt: skip

# --- nonsense: none of these may run to its end without a word --------------------------------------------------------
WRONG: dict[str, list[str]] = {
    "*": [
        "seed=-1", "seed=1.5", "seed=null", "seed=true", "seed=12345678901234567890", "seed=[1]", "seed=${nope}",
        "seed=nan", "steps=-1", "steps=1.5", "steps='1'", "steps=null", "steps={a:1}", "steps=inf", "episodes=0",
        "episodes=-3", "episodes=two", "episodes=1e9", "episodes=99999999999", "device=5", "device=null",
        "device=nowhere", "resume=5", "resume=/nonexistent", "resume=[a]", "sweep=5", "sweep=[a,b]",
        "progress_metric=nope",
        "progress_metric=5", "optimized_metric=nope", "optimized_metric=null", "seats=null", "seats=3",
        "seats=[learner]",
        "players=null", "players=5", "probes=null", "probes=7", "logger=5", "logger=null", "extra_evals=null",
        "checkpoint=null", "checkpoint.every=0", "checkpoint.every=often", "checkpoint.keep=-1",
        "+checkpoint.evry=3", "experiment=headrom", "experiment=5", "+experiment2=headroom", "+foo=1",
        "++foo.bar=2", "+steps2=4", "stps=4", "game=5", "game=null", "game={a:1}", "game=[lsp,kuhn]", "game=chess",
        "reward=5", "reward=[rm,verifier]", "reward={a:1}", "quality=5", "update=5", "update=null",
        "update=[lsp,grpo]", "update=nope", "opponent=5", "opponent=null", "opponent=[latest,uniform]",
        "rollout=every", "rollout=null", "eval=7", "eval=spice", "~reward", "~game", "~update", "~player",
        "~seats", "~steps", "~checkpoint", "update.objective=clipped", "update.objective=null",
        "update.objective=[a]", "update.objective._target_=nope.nope", "update.objective._target_=5",
        "update.objective._target_=selfplay.updates.advantages.centred", "update.objective._partial_=maybe",
        "update.objective._partial_=false", "+update.objective.low=0.2", "update.advantage=high",
        "update.advantage._target_=selfplay.updates.losses.reinforce", "update.aggregation=mean",
        "update.aggregation._target_=selfplay.updates.aggregations.constant", "update.schedule=0.5",
        "update.optimizer=adam", "update.optimizer=null", "update.optimizer._target_=torch.optim.Nope",
        "update.optimizer.lr=0", "update.optimizer.lr=-1", "update.optimizer.lr=nan", "update.optimizer.lr=inf",
        "update.optimizer.lr=fast", "update.optimizer.lr='1e-3'", "update.optimizer.lr=null",
        "+update.optimizer.betas=[0.9]", "+update.optimizer.betas=0.9", "+update.optimizer.betas=[2,3]",
        "+update.optimizer.lrr=1", "update.optimizer.weight_decay=-1", "update.optimizer.weight_decay=much",
        "update.micro_batch=0", "update.micro_batch=2.5", "update.micro_batch=many", "update.max_grad_norm=0",
        "update.max_grad_norm=-1", "update.max_grad_norm=null", "update.max_grad_norm=nan",
        "update.compare=nothing", "update.compare=null", "update.compare=[group]", "update.role_weights=null",
        "update.role_weights=5", "update.role_weights=[1]", "+update.role_weights.jury=1", "update.epochs=0",
        "update.epochs=2", "update.minibatches=-1", "update.measure_kl=yes", "update.measure_kl=1",
        "update.magnet_every=-1", "update.mixture=2", "update.mixture=half", "+update.policy=5", "+update.roles=[a]",
        "update=dapo update.objective.low=-1", "update=dapo update.objective.high=1e12",
        "update=cispo update.objective.most=0", "update=sapo update.objective.negative=0",
        "update=gspo update.objective.low=2", "update.mask_truncated=1",
        "update=grpo update.advantage.epsilon=inf", "update=grpo update.advantage.epsilon=-1",
        "update=spiral update.advantage.decay=1", "update=kto update.beta=0", "update=dpo update.beta=-1",
        "update=kto update.desirable=0 update.undesirable=0", "update=sft update.teachers=[]", "update=spin",
        "update=dpo update.teachers=nobody", "update=dpo update.pairs=best", "update=dpo update.refresh=-1",
        "update=dpo regularizer=entropy", "update=kto regularizer=kl_forward", "update=sppo regularizer.beta=0.3",
        "update=rejection regularizer=entropy", "update=rejection update.keep=best", "regularizer=5",
        "regularizer=null", "regularizer.beta=-0.1", "regularizer.beta=nan", "regularizer.beta=big",
        "regularizer.estimator=k4", "regularizer.estimator._target_=selfplay.updates.losses.reinforce",
        "schedule=5", "schedule=cosine schedule.warmup=-1", "schedule=cosine schedule.warmup=1000",
        "schedule=harmonic schedule.half=0", "schedule=harmonic schedule.half=nan", "+probes.reward=null",
        "+players.x=5", "+players.x={_target_:nope}", "+extra_evals.x=5", "+logger.x=5", "+logger.x.y=3",
        "game._target_=selfplay.referees.verifier.Verifier", "+game.anwsers=4", "+game._args_=[1]",
        "+game._recursive_=false", "hydra.run.dri=x", f"+endpoint.key={KEY}", f"device={KEY}",
    ],
    "table": [
        "reward=verifier", "quality=selfjudge", "task=arithmetic", "task.per_cell=3", "prompts=chat",
        "player.states=0", "player.states=-1", "player.states=many", "player.actions=1", "player.spread=-1",
        "player.spread=inf", "player.temperature=0", "player.temperature=1e-9", "player.temperature=hot",
        "+player.top_k=1", "eval.every=0", "eval.limit=1", "eval.limit=0", "eval.show=-1", "eval.show=all",
        "opponent=uniform opponent.exact=no", "opponent=uniform opponent.restart=yes",
        "opponent=uniform opponent.every=0", "opponent=uniform opponent.latest=2",
        "opponent=uniform opponent.memory=-1", "opponent=uniform opponent.rule=best",
        "opponent=recent opponent.rule.window=0", "opponent=pfsp opponent.rule.power=-2",
        "opponent=reference opponent.name=bob", "+opponent.evry=3", "opponent=mixture opponent.coefficient=2",
        "game.forfeit=-1", "game.forfeit=null", "game.forfeit=inf", "game.forfeit=high", "seats.first=bob",
        "+seats.jury=learner", "rollout.limit=0", "+rollout.limit=3", "rollout=exact rollout.limit=1",
    ],
    "text": [
        "player.stop=yes", "player.stop=[1]", "player.stop=['']", "player.stop=null", "player.top_k=1",
        "player.top_k=-2", "player.top_k=2.5", "player.top_k=all", "player.top_p=0", "player.top_p=1.5",
        "player.top_p=1e-9", "player.min_p=1", "player.min_p=-1", "player.temperature=0", "player.temperature=1e-9",
        "player.temperature=nan", "player.temperature='1'", "player.max_tokens=0", "player.max_tokens=100000",
        "player.max_tokens=null", "player.batch_size=0", "player.batch_size=x", "player.choose=best",
        "player.pattern=x",
        "player.pattern='('", "player.lora=5", "player.lora=[q]", "player.lora=yes", "player.chat=[a]",
        "player.chat=5", "player.attention=fast", "player.attention=5", "player.dtype=float99", "player.dtype=nn",
        "player.dtype=bfloat16", "player.compute_dtype=yes", "player.gradient_checkpointing=no",
        "player.gradient_checkpointing=1",
        "player.path=5", "player.path=null", "player.path=/nonexistent", "player.path=asset:nope",
        "player=tiny_lora player.lora.lora_alpha=0", "player=tiny_lora player.lora.r=0",
        "player=tiny_lora player.lora.r=two", "player=tiny_lora player.lora.target_modules=[nope]",
        "player=tiny_lora +player.lora.rr=3", "game.answers=0", "game.answers=1", "game.answers=many",
        "game.answers=2.0", "game.answers=null", "game.quality_weight=-1", "game.quality_weight=inf",
        "game.custom.row=[[1]]", "quality=selfjudge quality.prompt=hello", "quality=selfjudge quality.prompt=null",
        "quality=selfjudge quality.begin=null", "quality=selfjudge quality.begin=5",
        "quality=selfjudge quality.unreadable=yes", "quality=selfjudge quality.unreadable=1e30",
        "quality=selfjudge_written quality.pattern=x", "quality=selfjudge_written quality.pattern='('",
        "quality=selfjudge_written quality.temperature=-1", "quality=selfjudge_written quality.max_tokens=0",
        "reward=ensemble reward.weights.rm=0 reward.weights.selfjudge=0", "reward=ensemble reward.weights.rm=big",
        "reward=ensemble reward.parts.rm=null", "reward=rm reward.path=5", "reward=rm reward.truncate=yes",
        "reward=rm reward.batch_size=0", f"reward=judge reward.endpoint.key={KEY}",
        "reward=judge reward.endpoint.key=5", f"reward=rm_server reward.key={KEY}", "reward=rm_server reward.url=x",
        "reward=rm_server reward.path=asset:tiny", "reward=rm_server reward.context=0", "reward=rm_server",
        "reward=judge reward.prompt=hello", "reward=judge reward.pattern=x", "reward=judge reward.best=0",
        "reward=judge reward.endpoint=5", "reward=judge reward.endpoint.timeout=-1", "reward=code",
        "reward=judge reward.endpoint.parameters=5", "reward=judge reward.unreadable=maybe",
        "seats.solver=bob", "seats.solver=5", "~seats.solver", "episodes=1 game=lsp", "meta_solver=nash",
        "update.role_weights={solver:0,challenger:0}", "+update.role_weights.solver=-1",
        "update.role_weights.solver=high", "update.role_weights.solver=null", "update.role_weights.solver=inf",
        "eval=heldout eval.temperature=-1", "eval=heldout eval.every=0", "eval=heldout eval.task=5",
        "task=world task.per_cell=0", "task=world task.per_cell=22", "task=world task.per_cell=few",
        "task=arithmetic task.levels=[9]", "task=arithmetic task.levels=1", "task=arithmetic task.levels=[]",
        "task=arithmetic task.held_out_share=1e-9", "task=arithmetic task.held_out_share=2",
        "task=arithmetic task.per_level=100000", "rollout=exact", "opponent=uniform game=dataset",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Set:
    """Overrides, and which of them are nonsense."""

    args: tuple[str, ...]
    nonsense: tuple[str, ...]


def drawn(rng: Random) -> Set:
    """A kind of run, a few sensible values, and in two of three sets one or two that are nonsense."""
    kind = rng.choice(list(PLAYS))
    pools = ("*", "table" if kind in TABLES else "text")
    args = [*PLAYS[kind], "steps=2"]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        args.append(rng.choice([value for pool in pools for value in FINE[pool]]))
    wrong = [rng.choice([value for pool in pools for value in WRONG[pool]]) for _ in range(rng.choice((0, 1, 1, 2)))]
    rng.shuffle(wrong)
    words = [word for value in wrong for word in value.split(" ")]
    return Set((*args, *words), tuple(wrong))


@dataclass(frozen=True)
class Result:
    """What became of a set: finished, refused, or a fault with its reason."""

    outcome: str
    reason: str
    seconds: float


class Late(BaseException):
    """The time of a set ran out."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise Late after so many seconds, where this is the main thread."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(case: Set, folder: Path, process: bool = False) -> Result:
    """Run a set with a folder of its own, and judge how it ended."""
    start = time.perf_counter()
    args = [*case.args, f"hydra.run.dir={folder / 'run'}"]
    try:
        with limit(4 * SECONDS if process else SECONDS):
            ended = cli.process(*args) if process else cli.run(*args)
    except Late:
        return Result("fault", f"no end within {SECONDS} s", time.perf_counter() - start)
    except Exception as error:
        return Result("fault", f"{type(error).__name__}: {str(error)[:200]}", time.perf_counter() - start)
    return Result(*judged(case, ended, folder), time.perf_counter() - start)


def judged(case: Set, ended: cli.Ended, folder: Path) -> tuple[str, str]:
    """The outcome and its reason."""
    said = ended.err.strip()
    written = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    if KEY in ended.out + ended.err or written:
        return "fault", "the key was repeated" + (f" in {written[0].name}" if written else "")
    if "Traceback" in said:
        return "fault", f"traceback: {said.splitlines()[-3 if 'HYDRA_FULL' in said else -1][:200]}"
    if ended.code == 0:
        if case.nonsense and not overridden(case) and "note:" not in ended.out:
            return "fault", "nonsense was accepted in silence"
        return "finished", ""
    if ended.code == 1 and (re.match(r"(\S.*\n)*error: [^\n]+$", said) or "HYDRA_FULL_ERROR" in said or hydra(said)):
        return "refused", said.splitlines()[-1][:200]
    return "fault", f"exit {ended.code}: {said[:300]}"


def hydra(said: str) -> bool:
    """Whether it is one of Hydra's own messages, which are short."""
    starts = ("In '", "Could not", "Error merging", "Key '", "Multiple values", "Missing", "Primary", "mismatched")
    return said.startswith(starts) or "no viable alternative" in said or "mismatched input" in said


def overridden(case: Set) -> bool:
    """Whether each piece of nonsense was taken back by a later value of the same key, or by another choice of group."""
    keys = [arg.partition("=")[0].lstrip("+~") for arg in case.args]
    last = {key: place for place, key in enumerate(keys)}

    def lives(value: str) -> bool:
        word = value.split(" ")[-1]
        place = max(i for i, arg in enumerate(case.args) if arg == word)
        key = keys[place]
        return last[key] == place and not any(key.startswith(f"{k}.") and last[k] > place for k in last)

    return not any(lives(value) for value in case.nonsense)


def summary(results: list[tuple[Set, Result]]) -> list[str]:
    """How many ended how, and the faults with their command lines."""
    counts = Counter(result.outcome for _, result in results)
    said = [f"{len(results)} sets: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))]
    slowest = max((result.seconds for _, result in results), default=0.0)
    said.append(f"slowest {slowest:.0f} s")
    for case, result in results:
        if result.outcome == "fault":
            said.append(f"FAULT {result.reason}\n  python run.py {shlex.join(case.args)}\n  nonsense: {case.nonsense}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=1500, help="in process")
    parser.add_argument("--processes", type=int, default=0, help="as command lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="sets of the seed that are left out, the first ones")
    args = parser.parse_args()
    rng = Random(f"overrides/{args.seed}")
    cases = [drawn(rng) for _ in range(args.skip + args.sets + args.processes)][args.skip :]
    results = []
    with tempfile.TemporaryDirectory(prefix="selfplay-fuzz-") as place:
        os.chdir(place)
        for number, case in enumerate(cases):
            folder = Path(place, str(number))
            folder.mkdir()
            result = tried(case, folder, process=number >= args.sets)
            results.append((case, result))
            if result.outcome == "fault":
                print(f"{number}: {result.reason}: {shlex.join(case.args)}", flush=True)
            with suppress(OSError):
                os.chdir(place)
    print("\n".join(summary(results)))
    return int(any(result.outcome == "fault" for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
