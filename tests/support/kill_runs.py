"""Kill runs with -9 at random moments, resume them until they finish, and compare with runs that were never stopped.

    python tests/support/kill_runs.py --kills 60 --seed 0   a table of eight kinds of run, 15 minutes on two cores

A quarter of the runs have processes of their own, which may die while they import; the others are forked from this
one, which has imported everything. Weights, optimizer states, population, transcripts and metrics (but for what the
clock says) must be equal bit for bit, and a kill may cost at most the steps since the last checkpoint.
"""

import argparse
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import peft  # noqa: F401  for the forks
import sweeps

import selfplay.evaluations.held_out
import selfplay.players.language_model
import selfplay.runs.session  # noqa: F401

RUN = Path(__file__).parents[2] / "run.py"
KUHN = ("game=kuhn", "player=tabular", "episodes=16", "steps=8", "eval.every=3")
WORDS = ("reward=verifier", "episodes=2", "player.max_tokens=12", "steps=4", "task.per_cell=1", "eval.every=2")
KINDS = {
    "lsp": (*WORDS, "game.answers=2"),
    "lora": (*WORDS, "game.answers=2", "player=tiny_lora", "checkpoint.every=2"),
    "grpo": (*WORDS, "game=dataset", "game.answers=4", "update=grpo", "update.epochs=2", "update.minibatches=2"),
    "ppo": (*WORDS, "game.answers=4", "update=ppo", "checkpoint.keep=1", "checkpoint.keep_every=0"),
    "spin": (*WORDS, "game=demonstrations", "update=spin", "update.refresh=2"),
    "psro": (*KUHN, "opponent=psro", "opponent.every=3", "opponent.matches=8", "logger=tensorboard"),
    "league": (
        *("game=kuhn", "player=tiny", "opponent=league", "opponent.every=2", "opponent.exploit=1"),
        *("steps=6", "episodes=4", "eval=none", "optimized_metric=loss"),
    ),
    "every": (*KUHN, "rollout=exact", "checkpoint.every=2", "logger=trackio"),
}
MOMENTS = ("any", "begun", "begun", "checkpoint")  # begun: after the folder was; checkpoint: while one is written
IMPORTS = 6.0  # seconds, about
APART = {
    "config.yaml",
    "curves.png",
    "summary.json",
    "metrics.jsonl",
    "state.pt",
    "SHA256SUMS",
}  # compared otherwise, or clocks


@dataclass
class Killed:
    """What became of one run that was killed.

    Attributes:
        kind: of `KINDS`.
        moments: when each process of it was killed: the moment and the last step in its records.
        wrong: what differs from the run that was never stopped; empty where nothing does.
    """

    kind: str
    moments: list[str]
    wrong: list[str]


class Process:
    """The program at work.

    Args:
        folder: the run's; what it prints goes to a file beside it.
        args: of the command line.
        own: whether it starts from nothing, rather than as a fork of this process.
    """

    def __init__(self, folder: Path, args: Sequence[str], own: bool) -> None:
        self._status: int | None = None
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            if own:
                self.pid = subprocess.Popen([sys.executable, str(RUN), *args], stdout=log, stderr=log).pid
            else:
                self.pid = os.fork() or _child(args, log.fileno())

    def ended(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def wait(self) -> int:
        """Its exit code; negative if a signal ended it."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self._status)


def _child(args: Sequence[str], log: int) -> int:
    """The program in a forked process, which never returns."""
    code = 1
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(log, number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        sys.argv = [str(RUN), *args]
        runpy.run_path(str(RUN), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def ended(folder: Path, args: Sequence[str], own: bool) -> float:
    """Let the program end well; the seconds that it took."""
    began = time.monotonic()
    code = Process(folder, args, own).wait()
    said = (folder.parent / f"{folder.name}.log").read_text()
    assert code == 0, f"{' '.join(args)} ended with {code}: {said[-2000:]}"
    return time.monotonic() - began


def kill(running: Process, folder: Path, moment: str, seconds: float, rng: random.Random) -> bool:
    """Kill the process at the moment; whether it still ran."""

    def wait(reached: Callable[[], bool]) -> bool:
        while not reached():
            if running.ended():
                return False
            time.sleep(0.001)
        return not running.ended()

    drafts, left = 0, rng.randint(1, 4)

    def writing() -> bool:
        nonlocal drafts, left
        now = len(list(folder.glob("checkpoints/.writing-*")))
        left -= now > drafts
        drafts = now
        return left == 0

    if moment == "checkpoint":
        runs = wait(writing)
        time.sleep(rng.uniform(0, 0.01))
    else:
        runs = moment != "begun" or wait((folder / "config.yaml").exists)
        until = time.monotonic() + rng.uniform(0, seconds)
        runs = runs and wait(lambda: time.monotonic() > until)
    if not runs or running.ended():
        return False
    os.kill(running.pid, signal.SIGKILL)
    return running.wait() == -signal.SIGKILL


def whole_steps(folder: Path) -> list[int]:
    """The steps of the whole lines of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    text = file.read_bytes() if file.exists() else b""
    return [json.loads(line)["step"] for line in text[: text.rfind(b"\n") + 1].splitlines()]


def one(kind: str, folder: Path, twin: Path, seconds: tuple[float, float], rng: random.Random, own: bool) -> Killed:
    """Kill a run of a kind, its resumption too in a third of all cases, then let it finish and compare."""
    found = Killed(kind, [], [])
    every = next((int(arg.split("=")[1]) for arg in KINDS[kind] if arg.startswith("checkpoint.every=")), 1)
    while True:
        begun = (folder / "config.yaml").exists()
        args = (f"resume={folder}",) if begun else (*KINDS[kind], f"hydra.run.dir={folder}")
        moment = rng.choice(MOMENTS)
        if not found.moments or (len(found.moments) < 3 and rng.random() < 1 / 3):
            total, training = seconds[0] + (IMPORTS if own else 0), seconds[1]
            if kill(Process(folder, args, own), folder, moment, training if moment == "begun" else total, rng):
                found.moments.append(f"{moment}@{max(whole_steps(folder), default='-')}")
            continue
        reached = max(whole_steps(folder), default=0)
        ended(folder, args, own)
        said = (folder.parent / f"{folder.name}.log").read_text().rpartition("resuming ")[2].partition("\n")[0]
        if begun and int(said.rpartition("after step ")[2]) < reached - every:
            found.wrong.append(f"the kill at step {reached} cost more than {every} steps ({said})")
        found.wrong += differences(folder, twin)
        return found


def differences(run: Path, twin: Path) -> list[str]:
    """How two finished runs differ, in what no clock says."""
    here, there = sweeps.files(run), sweeps.files(twin)
    kept = [{name for name in some if not name.startswith("loggers/")} for some in (here, there)]
    wrong = [f"{name} is in one of the runs only" for name in sorted(kept[0] ^ kept[1])]
    same = [name for name in sorted(kept[0] & kept[1]) if Path(name).name not in APART]
    wrong += [f"{name} differs" for name in same if here[name] != there[name]]
    if sweeps.states(run) != sweeps.states(twin):
        wrong.append("a state.pt differs")
    if sweeps.cli.metrics(run) != sweeps.cli.metrics(twin):
        wrong.append("metrics.jsonl differs")
    if sweeps.cli.summary(run) != sweeps.cli.summary(twin):
        wrong.append("summary.json differs")
    return wrong


def kills(root: Path, count: int, seed: int, kinds: Sequence[str]) -> list[Killed]:
    """Kill `count` runs in turn through the kinds; prints a line a run."""
    root.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    spans: dict[str, tuple[float, float]] = {}
    found: list[Killed] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        twin = root / kind
        if kind not in spans:
            began = time.time()
            total = ended(twin, (*KINDS[kind], f"hydra.run.dir={twin}"), own=False)
            spans[kind] = total, total - ((twin / "config.yaml").stat().st_mtime - began)
        own = rng.random() < 0.25
        found.append(one(kind, root / f"{kind}-{number}", twin, spans[kind], rng, own))
        result = "; ".join(found[-1].wrong) or "equal"
        print(f"{number:3d}  {kind:7s} killed {', '.join(found[-1].moments):40s} {result}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; ends with 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, metavar="N", help="runs that are killed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments (%(default)s)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of runs (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the runs; else they go")
    args = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="selfplay-kills-") as temporary:
        found = kills((args.keep or Path(temporary)).resolve(), args.kills, args.seed, args.kinds.split(","))
    print("\nkind     runs  kills  different")
    for kind in dict.fromkeys(killed.kind for killed in found):
        some = [killed for killed in found if killed.kind == kind]
        count = sum(len(killed.moments) for killed in some)
        print(f"{kind:8s} {len(some):4d}  {count:5d}  {sum(bool(killed.wrong) for killed in some):9d}")
    return int(any(killed.wrong for killed in found))


if __name__ == "__main__":
    sys.exit(main())
