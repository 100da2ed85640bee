"""The result table of first_light, from the folders of its runs.

    python experiments/first_light/summarise.py multirun/<...> --out experiments/first_light/results.json

One row a setting (the overrides but the seed): held-out accuracy before and after, the gain over seeds with a 95 %
Student's t interval, and the same gain on the held-out questions that nobody happened to ask in training.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf
from scipy import stats

from selfplay.world import held_out, parse


def interval(values: list[float]) -> list[float]:
    """The 95 % Student's t interval of the mean of a few independent values."""
    half = float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return [fmean(values) - half, fmean(values) + half]


def unasked(folder: Path) -> list[int]:
    """Numbers of the held-out questions whose operands never came up in the run's training."""
    asked = set()
    with (folder / "episodes.jsonl").open(encoding="utf-8") as file:
        for line in file:
            turn = json.loads(line)
            question = parse(turn["prompt"]) if turn["role"] == "solver" else None
            if question is not None:
                asked.add((question.family, question.operands))
    return [i for i, q in enumerate(held_out()) if (q.family, q.operands) not in asked]


def read(folder: Path) -> dict[str, Any]:
    """One run: its setting, seed and figures.

    Raises:
        SystemExit: the run has not finished.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if summary["status"] != "finished":
        raise SystemExit(
            f"{folder} is {summary['status']}, not finished; resume it with: python run.py resume={folder}"
        )
    config = OmegaConf.load(folder / "config.yaml")
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    fresh = unasked(folder)
    share = {k: fmean(int(e["correct"][i]) for i in fresh) for k, e in (("before", before), ("after", after))}
    return {
        "setting": " ".join(o for o in config.overrides if not o.startswith("seed=")) or "default",
        "seed": config.seed,
        "before": before["accuracy"],
        "after": after["accuracy"],
        "gain": after["accuracy"] - before["accuracy"],
        "unasked questions": len(fresh),
        "gain on unasked": share["after"] - share["before"],
        "levels after": after["levels"],
        "steps": summary["steps"],
        "seconds": round(summary["seconds"], 1),
        "tokens": summary["tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = [read(path.parent) for folder in args.folders for path in sorted(folder.rglob("summary.json"))]
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        settings[run["setting"]].append(run)
    rows = []
    for setting, group in sorted(settings.items()):
        row: dict[str, Any] = {"setting": setting, "seeds": sorted(run["seed"] for run in group)}
        for key in ("before", "after", "gain", "gain on unasked"):
            values = [run[key] for run in group]
            row[key] = {"mean": fmean(values), "interval": interval(values) if len(values) > 1 else None}
        rows.append(row)
        print(f"{setting} ({len(group)} seeds)")
        for key in ("before", "after", "gain", "gain on unasked"):
            mean, spread = row[key]["mean"], row[key]["interval"]
            print(
                f"  {key:16s} {100 * mean:6.1f} %"
                + (f"  [{100 * spread[0]:.1f}, {100 * spread[1]:.1f}]" if spread else "")
            )
    if args.out:
        args.out.write_text(json.dumps({"settings": rows, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
