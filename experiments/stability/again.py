"""The rule at work: test runs with it as an option, and runs that go on from the alarm's checkpoint in another setting.

    python experiments/stability/again.py multirun/stability        # after run.sh and summarise.py --choose; goes on

Stopped: seed 4 of every setting, with `stop.above` or `stop.below`. Rollback: every run of the seeds 4 and 5 with an
alarm goes on from its last checkpoint up to the alarm, as LSP with the learning rate 3e-4, for the rest of 60 steps;
the checkpoint is its reference, too. Writes reruns.csv.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from alarms import TRAINING, Alarm
from summarise import read

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SIZE = ["reward=rm", "episodes=8", "game.answers=4", "task.per_cell=4", "eval.every=5", "checkpoint.every=60"]
LR = "update.optimizer.lr"
SETTINGS = {
    **{
        f"{game}-{lr}": [f"game={game}", f"{LR}={lr}"]
        for game in ("lsp_zero", "lsp")
        for lr in ("3e-4", "6e-4", "1e-3")
    },
    "lsp-6e-4-quality": ["game=lsp", f"{LR}=6e-4", "game.quality_weight=0.3"],
    "lsp_zero-6e-4-beta": ["game=lsp_zero", f"{LR}=6e-4", "regularizer.beta=0.2"],
}
SAFE = ["game=lsp", f"{LR}=3e-4"]
SEED, ROLLED = 4, (4, 5)  # of the runs that are made again with the rule, and of those that go on from the alarm


def run(folder: Path, *options: str) -> tuple[int, str, list[dict[str, Any]]]:
    """A run's exit code, what it said when it stopped, and its lines; a finished one is not made again."""
    done = folder / "done.json"
    if not done.exists():
        command = [sys.executable, "run.py", *SIZE, f"hydra.run.dir={folder}", *options]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = [line for line in told.stdout.splitlines() if line.startswith("stopped early")]
        done.write_text(json.dumps({"code": told.returncode, "message": "".join(said)}))
    found = json.loads(done.read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found["code"], found["message"], lines


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what differs from run to run, and without its evaluation."""
    return {name: value for name, value in line.items() if not name.startswith("time/") and name != "eval"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    found = json.loads((HERE / "rules.json").read_text())
    [rule] = [Alarm(**alarm) for alarm in found["alarms"] if alarm["measure"] == found["rule"]]
    limits = "above" if rule.sign > 0 else "below"
    option = [f"stop.{limits}={{{rule.measure}:{rule.limit}}}", f"stop.window={rule.window}"]
    rows = []
    for (setting, seed), lines in read(HERE / "results.csv").items():
        if seed in TRAINING:
            continue
        alarm, plain = rule.step(lines), folder / "test" / setting / str(seed - len(TRAINING))
        row = {"setting": setting, "seed": seed, "alarm": alarm}
        if seed == SEED:
            code, message, new = run(
                folder / "stopped" / setting, f"seed={seed}", "steps=60", *SETTINGS[setting], *option
            )
            old = [json.loads(line) for line in (plain / "metrics.jsonl").read_text().splitlines()]
            same = all(timeless(a) == timeless(b) for a, b in zip(new, old, strict=False))
            ended = {"ended": new[-1]["step"], "code": code, "message": message, "same": same}
            rows.append(row | {"kind": "stopped", **ended, "accuracy": new[-1]["eval"]["accuracy"]})
        if np.isfinite(alarm) and seed in ROLLED:
            kept = int(alarm) // 5 * 5
            if kept == 60:
                continue
            options = [f"seed={seed}", f"steps={60 - kept}", f"player.path={plain}/checkpoints/step-{kept:06d}", *SAFE]
            code, message, new = run(folder / "rollback" / f"{setting}-{seed}", *options)
            ended = {"ended": new[-1]["step"], "code": code, "message": message, "same": False}
            rows.append(row | {"kind": "rollback", **ended, "accuracy": new[-1]["eval"]["accuracy"]})
        print(setting, seed, alarm, flush=True)
    pd.DataFrame(rows).to_csv(HERE / "reruns.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main()
