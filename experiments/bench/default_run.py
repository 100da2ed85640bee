"""The default run against itself before its steps were made fast: seconds from start to end, and what was learnt.

    python experiments/bench/default_run.py             default_run.json beside this file; ten minutes on two cores

Both sides take turns, a seed each, and who begins, too: the same command in this tree and in a worktree of the commit
before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from machine import facts

from selfplay.theory import intervals

HERE = Path(__file__).parent
BEFORE = "68717b9^"  # the commit before the first that was about speed


def run(tree: Path, seed: int, folder: Path) -> dict[str, float]:
    """Seconds of `python run.py` in a tree, and the learner's accuracy at its end."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "run.py", f"seed={seed}", f"hydra.run.dir={folder}"]
    start = time.perf_counter()
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "accuracy": summary["eval"]["after"]["accuracy"]}


def compare(seeds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), BEFORE], cwd=HERE, check=True)
        try:
            for seed in range(seeds):
                sides = [("before", tree), ("now", HERE.parents[1])]
                for name, where in sides if seed % 2 == 0 else reversed(sides):
                    found[name].append(run(where, seed, Path(folder) / f"{name}-{seed}"))
                    print(name, seed, found[name][-1], flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HERE, check=True)
    return {name: {key: [line[key] for line in lines] for key in lines[0]} for name, lines in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    found = compare(parser.parse_args().seeds)
    before, now = found["before"], found["now"]
    pairs = [a / b for a, b in zip(before["seconds"], now["seconds"], strict=True)]
    apart = [b - a for a, b in zip(before["accuracy"], now["accuracy"], strict=True)]
    told = {
        "ratio of medians": median(before["seconds"]) / median(now["seconds"]),
        "of a pair": [min(pairs), max(pairs)],
        "accuracy now minus before": fmean(apart),
        "95 % interval": intervals.as_list(intervals.student(apart)),
    }
    path = HERE / "default_run.json"
    path.write_text(json.dumps({**facts("cpu"), "before_commit": BEFORE, **found, **told}, indent=1) + "\n", "utf-8")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
