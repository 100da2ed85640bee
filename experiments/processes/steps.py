"""Seconds of a step of Language Self-Play: two processes with a thread each against one process with two threads.

    python experiments/processes/steps.py [--pairs 4] [--steps 6]     writes steps.json beside this file

The runs alternate; the first step of each is left out. A step's seconds are time/play + time/score + time/update, by
the run's own clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RUN = HERE.parents[1] / "run.py"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517")
SIDES: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {  # threads, before run.py, after it
    "one process": (2, (), ()),
    "ddp": (1, TORCHRUN, ("parallel=ddp",)),
    "fsdp": (1, TORCHRUN, ("parallel=fsdp",)),
}


def measured(side: str, steps: int, more: list[str]) -> float:
    """Median seconds of a step."""
    threads, before, after = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        own = [f"steps={steps}", "eval=none", "checkpoint.every=1000", f"hydra.run.dir={folder}/run"]
        command = [sys.executable, *before, str(RUN), *own, *more, *after]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, env=env, check=True, capture_output=True)
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [sum(line[f"time/{part}"] for part in ("play", "score", "update")) for line in lines if line["step"] > 1]
    return median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=HERE / "steps.json")
    parser.add_argument("more", nargs="*", help="overrides of every run")
    args = parser.parse_args()
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(args.pairs):
        for side in SIDES:
            seconds = measured(side, args.steps, args.more)
            print(f"{number} {side}: {seconds:.3f} s a step", flush=True)
            found[side].append(round(seconds, 4))
    first = found["one process"]
    ratios: dict[str, Any] = {
        side: {"median": median(times) / median(first), "pairs": [b / a for a, b in zip(first, times, strict=True)]}
        for side, times in found.items()
    }
    told = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
    }
    args.out.write_text(json.dumps({**told, "seconds": found, "against one process": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
