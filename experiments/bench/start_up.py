"""How long one waits: for the help, for a config, for the first step of the embedded model's run, for its end.

    python experiments/bench/start_up.py                start_up.json beside this file; a minute and a half on two cores

The first step is done when its checkpoint is there; before it the untouched model answers the held-out questions.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import facts

HERE = Path(__file__).parent
TIMES = 5
WAITED = {"--help": ["--help"], "--cfg job": ["--cfg", "job"], "a run of one step": ["steps=1"]}


def wait(arguments: list[str], folder: Path) -> dict[str, float]:
    """Seconds until `python run.py` has ended, and until its first step is done where it does one."""
    command = [sys.executable, "run.py", *arguments]
    command += [] if arguments[0].startswith("-") else [f"hydra.run.dir={folder}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    start, found = time.perf_counter(), {}
    process = subprocess.Popen(
        command, cwd=HERE.parents[1], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if "first step" not in found and (folder / "checkpoints" / "step-000001").exists():
            found["first step"] = time.perf_counter() - start
        time.sleep(0.005)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}; run it by hand and see why")
    return {**found, "end": time.perf_counter() - start}


def main() -> None:
    told = {}
    for name, arguments in WAITED.items():
        runs = []
        for _ in range(1 + TIMES):  # the first one brings the files into memory
            with tempfile.TemporaryDirectory() as folder:
                runs.append(wait(arguments, Path(folder) / "run"))
        told[name] = {what: [run[what] for run in runs[1:]] for what in runs[0]}
        print(name, {what: round(median(seconds), 2) for what, seconds in told[name].items()}, flush=True)
    path = HERE / "start_up.json"
    path.write_text(json.dumps({**facts("cpu"), "seconds": told}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
