"""The result table of first_light, from the folders of its runs.

    python experiments/first_light/summarise.py multirun/<...> --out experiments/first_light/results.json
    python experiments/first_light/summarise.py        # without the runs: from the results.json written before

One row a setting (the overrides but the seed): held-out accuracy before and after, the gain over seeds with a 95 %
Student's t interval (of shares on the logit scale), and the same gain on the held-out questions that nobody happened to
ask in training; every comparison with Holm's p.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from selfplay.report.families import markdown
from selfplay.report.statistics import estimate, format_estimate
from selfplay.tasks.tiny_world import held_out, parse

SHARES = ("before", "after")
FIGURES = (*SHARES, "gain", "gain on unasked")


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


def summed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a setting: seeds, and of each figure the mean with its interval, None where there is none."""
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        settings[run["setting"]].append(run)
    rows = []
    for setting, group in sorted(settings.items()):
        row: dict[str, Any] = {"setting": setting, "seeds": sorted(run["seed"] for run in group)}
        for key in FIGURES:
            found = estimate([run[key] for run in group], share=key in SHARES)
            row[key] = {"mean": found.mean, "interval": None if np.isnan(found.low) else [found.low, found.high]}
        rows.append(row)
    return rows


def show(runs: list[dict[str, Any]]) -> None:
    """The tables in Markdown."""
    table = pd.DataFrame(runs)
    print("| " + " | ".join(["setting", *FIGURES]) + " |\n| --- |" + " ---: |" * len(FIGURES))
    for setting, part in table.groupby("setting"):
        print(
            f"| `{setting}` | " + " | ".join(format_estimate(part[key], share=key in SHARES) for key in FIGURES) + " |"
        )
    family = {}
    for key in FIGURES[2:]:
        wide = table.pivot(index="seed", columns="setting", values=key)
        family |= {f"`{setting}`: {key}": wide[setting].dropna() for setting in wide}
        if key == "gain":
            first, *others = wide.columns
            family |= {f"`{first}` − `{other}`: {key}": (wide[first] - wide[other]).dropna() for other in others}
    print("\n" + markdown(family))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.folders:
        runs = [read(path.parent) for folder in args.folders for path in sorted(folder.rglob("summary.json"))]
    else:
        runs = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))["runs"]
    show(runs)
    if args.out:
        found = {"settings": summed(runs), "runs": runs}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
