"""A default step on a machine that does other things too: seconds, and times those of a quiet step.

    python experiments/bench/busy.py             busy.json beside this file; about twenty minutes on two quiet cores
    python experiments/bench/busy.py --pairs 1 --only busy_1,pair

Each case is the default run (`python run.py eval=none`), a process of its own; a step's seconds are the median over its
steps but the first two, which also fill caches. "Before" is a worktree of the commit in which threads only spun; both
sides take turns in the quiet case. A busy process is an endless loop of Python.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from machine import facts

HERE = Path(__file__).parent
NOW = HERE.parents[1]
BEFORE = "6b33a7d"
WARM = 2  # steps that are left out
STEPS = {"before": 6, "now": 14}  # of a run in company; before, a step may take minutes
LIMIT = 900.0  # seconds of a run before
BEFORE_RUNS = 1  # in company, where each takes minutes
CASES = ("quiet", "busy_1", "busy_2", "pair", "visit")


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many endless loops beside."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def begin(tree: Path, folder: Path, steps: int) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**kept, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "run.py", "eval=none", f"steps={steps}", f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL)


def steps_of(folder: Path) -> list[float]:
    """Seconds of each step that a run has written."""
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    return [line["time/play"] + line["time/score"] + line["time/update"] for line in lines if line["step"] > 0]


def end(run: subprocess.Popen[bytes], folder: Path) -> float:
    """The median step of a run, once it has ended or its time is up."""
    try:
        run.wait(LIMIT)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
    found = steps_of(folder)
    return median(found[WARM:] or found)


def quiet(trees: dict[str, Path], folder: Path, pairs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"before": [], "now": []}
    for pair in range(pairs):
        for side in ("before", "now") if pair % 2 == 0 else ("now", "before"):
            where = folder / f"quiet-{side}-{pair}"
            found[side].append(end(begin(trees[side], where, 20), where))
    return found


def in_company(trees: dict[str, Path], folder: Path, pairs: int, processes: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"before": [], "now": []}
    with busy(processes):
        for side, times in (("before", BEFORE_RUNS), ("now", pairs)):
            for number in range(times):
                where = folder / f"busy{processes}-{side}-{number}"
                found[side].append(end(begin(trees[side], where, STEPS[side]), where))
    return found


def side_by_side(trees: dict[str, Path], folder: Path, pairs: int) -> dict[str, list[float]]:
    """Two runs at once, the mean of both."""
    found: dict[str, list[float]] = {"before": [], "now": []}
    for side, times in (("before", BEFORE_RUNS), ("now", pairs)):
        for number in range(times):
            places = [folder / f"pair-{side}-{number}-{one}" for one in range(2)]
            runs = [begin(trees[side], place, STEPS[side]) for place in places]
            found[side].append(sum(end(run, place) for run, place in zip(runs, places, strict=True)) / 2)
    return found


def visit(trees: dict[str, Path], folder: Path) -> dict[str, float]:
    """One run: alone, beside a busy process, and alone again."""
    where, marks = folder / "visit", []
    run = begin(trees["now"], where, 60)
    for until in (15, 30):
        while len(steps_of(where)) < until:
            time.sleep(0.1)
        marks.append(len(steps_of(where)))
        if until == 15:
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    loop.kill()
    loop.wait()
    run.wait()
    first, second = marks
    found = steps_of(where)
    return {
        "alone": median(found[WARM:first]),
        "in company": median(found[first + 1 : second]),
        "slowest in company": max(found[first + 1 : second]),
        "alone again": median(found[-15:]),
    }


def measure(trees: dict[str, Path], folder: Path, pairs: int, only: list[str]) -> dict[str, Any]:
    cases = {
        "quiet": lambda: quiet(trees, folder, pairs),
        "busy_1": lambda: in_company(trees, folder, pairs, 1),
        "busy_2": lambda: in_company(trees, folder, pairs, 2),
        "pair": lambda: side_by_side(trees, folder, pairs),
        "visit": lambda: visit(trees, folder),
    }
    found = {}
    for name in only:
        found[name] = cases[name]()
        print(name, json.dumps(found[name]), flush=True)
    return found


def told(seconds: dict[str, Any]) -> dict[str, float]:
    """The figures: times a quiet step of the same side, and the quiet step now over the one before, pair by pair."""
    alone = seconds["quiet"]
    figures = {"quiet, now over before": median(b / a for a, b in zip(alone["before"], alone["now"], strict=True))}
    for name in ("busy_1", "busy_2", "pair"):
        for side, values in seconds.get(name, {}).items():
            if not values:
                continue
            figures[f"{name}, {side}"] = median(values) / median(alone[side])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CASES))
    args = parser.parse_args()
    path = HERE / "busy.json"
    seconds = json.loads(path.read_text("utf-8"))["seconds"] if path.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(before), BEFORE], cwd=HERE, check=True)
        try:
            seconds |= measure({"before": before, "now": NOW}, Path(folder), args.pairs, args.only)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=HERE, check=True)
    figures = told(seconds)
    result = {**facts("cpu"), "before_commit": BEFORE, "seconds": seconds, "times a quiet step": figures}
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
