"""Data-driven baselines against self-play, at equal optimizer steps and at equal generated tokens.

    python experiments/baselines/summarise.py multirun/baselines --paper-table multirun/paper_table
    python experiments/baselines/summarise.py        # without the runs: from the table.json that was written before

Writes table.json and curves.png, and prints the tables in Markdown; 95 % Student's t intervals over five seeds, of
shares on the logit scale; every comparison with Holm's p. The tokens of a method are all that was said for it: the
learner's questions and answers, and for SFT the teacher's answers.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate
from selfplay.runs import load

STEPS = 100
SEEDS = (0, 1, 2, 3, 4)
METHODS = {  # folder -> name, what it is given beside the model
    "sft": ("SFT", "questions, right answers"),
    "rejection": ("rejection sampling", "questions, reward model"),
    "dpo": ("DPO, online", "questions, reward model"),
    "grpo": ("GRPO", "questions, reward model"),
    "lsp_zero": ("LSP-Zero", "reward model"),
    "lsp": ("LSP", "reward model"),
}
COLOURS = ("#999999", "#009E73", "#CC79A7", "#000000", "#D55E00", "#0072B2")


def curves(folder: Path) -> pd.DataFrame:
    """Of every finished run with one of the seeds: seed, step, tokens so far, held-out accuracy."""
    sweep = load(folder)
    if len(sweep.problems):
        print(sweep)
    parts = []
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        lines = sweep.metrics[sweep.metrics["run"] == run.run].set_index("step").sort_index()
        said = lines.get("tokens/generated", 0.0).fillna(0.0)
        if not said.any():  # a teacher spoke
            said = lines["tokens/kept"].fillna(0.0)
        part = pd.DataFrame({"tokens": said.cumsum(), "accuracy": lines["eval/accuracy"]}).dropna().reset_index()
        parts.append(part.assign(seed=int(run.seed))[part["step"] <= STEPS])
    table = pd.concat(parts, ignore_index=True)
    return table[table["seed"].isin(SEEDS)]


def rates(folder: Path) -> dict[str, dict[str, float]]:
    """Method -> learning rate -> held-out accuracy on the seed that chose it."""
    out: dict[str, dict[str, float]] = {}
    for name in ("sft", "data"):
        for run in load(folder / name).runs.itertuples():
            said = dict(part.split("=", 1) for part in run.setting.split() if "=" in part)
            out.setdefault(said["update"], {})[said["update.optimizer.lr"]] = float(run.optimized)
    return out


def show(found: dict[str, Any]) -> None:
    """The tables in Markdown: what each method reaches, and every comparison with LSP."""
    budget = f"{found['budget'] / 1000:.0f} thousand tokens"
    print(
        f"| method | given | {found['steps']} steps, % | tokens, thousands | {budget}, % |\n"
        "| --- | --- | ---: | ---: | ---: |"
    )
    for method, (name, given) in METHODS.items():
        steps, tokens = (format_estimate(_seeds(found, method, label), share=True) for label in ("steps", "tokens"))
        print(f"| {name} | {given} | {steps} | {found[method]['tokens'] / 1000:.0f} | {tokens} |")
    family = {
        f"LSP − {name}, {title}": _seeds(found, "lsp", label) - _seeds(found, method, label)
        for label, title in (("steps", f"{found['steps']} steps"), ("tokens", budget))
        for method, (name, _) in METHODS.items()
        if method != "lsp"
    }
    print("\n" + markdown(family))


def _seeds(found: dict[str, Any], method: str, label: str) -> pd.Series:
    return pd.Series(found[method]["seeds"][label]).rename(index=int)


def read(folder: Path, paper_table: Path, out: Path) -> dict[str, Any]:
    """What the runs say, and their curves drawn."""
    homes = {m: (folder if m in ("sft", "rejection", "dpo") else paper_table) / m for m in METHODS}
    tables = {m: curves(home) for m, home in homes.items()}
    ends = {m: t[t["step"] == STEPS].set_index("seed") for m, t in tables.items()}
    budget = min(float(end["tokens"].min()) for end in ends.values())

    def within(part: pd.DataFrame) -> float:
        """Accuracy when the budget is spent, between two evaluations on the line through them."""
        return float(np.interp(budget, part["tokens"], part["accuracy"]))

    at_budget = {m: pd.Series({s: within(p) for s, p in t.groupby("seed")}) for m, t in tables.items()}
    base = tables["grpo"][tables["grpo"]["step"] == 0]["accuracy"].mean()
    found: dict[str, Any] = {"base": base, "steps": STEPS, "budget": budget, "rates": rates(folder / "rates")}
    print(f"base {100 * base:.1f}; budget {budget:.0f} tokens; rates {json.dumps(found['rates'])}\n")
    for method in METHODS:
        seeds = {"steps": ends[method]["accuracy"], "tokens": at_budget[method]}
        found[method] = {
            "seeds": {label: {int(s): round(float(v), 5) for s, v in row.items()} for label, row in seeds.items()},
            "tokens": float(ends[method]["tokens"].mean()),
        }
    draw(tables, budget, out)
    return found


def draw(tables: dict[str, pd.DataFrame], budget: float, out: Path) -> None:
    """Accuracy against steps and against tokens."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
    for colour, (method, table) in zip(COLOURS, tables.items(), strict=True):
        mean = table.groupby("step")[["tokens", "accuracy"]].mean()
        for axis, x in zip(axes, (mean.index, mean["tokens"] / 1000), strict=True):
            axis.plot(x, 100 * mean["accuracy"], ".-", color=colour, label=METHODS[method][0])
    axes[1].axvline(budget / 1000, color="#cccccc", lw=1, zorder=0)
    for axis, label in zip(axes, ("optimizer step", "tokens said for it, thousands"), strict=True):
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out accuracy, %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--paper-table", type=Path, default=Path("multirun/paper_table"))
    parser.add_argument("--out", type=Path, default=Path("experiments/baselines"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.folder is None:
        found = json.loads((args.out / "table.json").read_text(encoding="utf-8"))
    else:
        found = read(args.folder, args.paper_table, args.out)
        (args.out / "table.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(found)


if __name__ == "__main__":
    main()
