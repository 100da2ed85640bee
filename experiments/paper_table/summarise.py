"""The paper's table on the embedded model, from the folders of its runs.

    python experiments/paper_table/summarise.py multirun/paper_table --out experiments/paper_table
    python experiments/paper_table/summarise.py      # without the runs: from the results.csv that was written before

Writes results.csv (a row a method, seed and step), table.json and curves.png, and prints the tables in Markdown:
held-out accuracy with 95 % Student's t intervals over the seeds (of shares on the logit scale), gains over the base and
over GRPO paired by seed, and every comparison with Holm's p.
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

from selfplay.measures import measure
from selfplay.report.families import markdown
from selfplay.report.statistics import estimate
from selfplay.runs import load

METHODS = {
    "grpo": "GRPO with data",
    "lsp_zero": "LSP-Zero",
    "lsp": "LSP",
    "lsp_zero_long": "LSP-Zero, 300 steps",
    "lsp_long": "LSP, 300 steps",
    "grpo_then_grpo": "GRPO, then GRPO",
    "lsp_zero_then_grpo": "LSP-Zero, then GRPO",
    "lsp_then_grpo": "LSP, then GRPO",
}
COLOURS = {"grpo": "#000000", "lsp_zero": "#D55E00", "lsp": "#0072B2"}
KEPT = [
    "eval/accuracy", "solver/reward", "solver/truth", "challenger/invalid", "challenger/distinct",
    "frac_reward_zero_std", "solver/kl", "challenger/kl", "tokens",
]  # fmt: skip
AGAINST = {  # method -> what it is compared with
    "lsp_zero": ("grpo", "lsp"),
    "lsp": ("grpo",),
    "lsp_zero_long": ("grpo", "lsp_long"),
    "lsp_long": ("grpo", "lsp"),
    "grpo_then_grpo": ("grpo",),
    "lsp_zero_then_grpo": ("grpo", "grpo_then_grpo"),
    "lsp_then_grpo": ("grpo", "grpo_then_grpo"),
}
LAST = 10  # steps over which a figure of training is averaged
FIRST = 150  # steps of the first stage; what LSP and LSP-Zero did after it is told as "..._long"


def estimated(values: pd.Series, share: bool = False) -> tuple[float, float, float] | tuple[float]:
    """Mean and its 95 % Student's t interval; the mean alone where there is none."""
    found = estimate(values, share)
    return (found.mean,) if np.isnan(found.low) else (found.mean, found.low, found.high)


def read(folder: Path) -> pd.DataFrame:
    """Every method's metrics, a row a seed and step; what is not finished is named and left out."""
    parts = []
    for method in METHODS:
        if method.endswith("_long"):
            continue
        if not (folder / method).is_dir():
            print(f"{method}: not run")
            continue
        sweep = load(folder / method)
        if len(sweep.problems):
            print(sweep)
        done = sweep.runs.loc[sweep.runs["status"] == "finished", "run"]
        part = sweep.metrics[sweep.metrics["run"].isin(done)].reindex(columns=["seed", "step", *KEPT])
        late = part["step"] > FIRST
        parts.append(part.assign(method=np.where(late, f"{method}_long", method)))
    table = pd.concat(parts, ignore_index=True).rename(columns={"eval/accuracy": "accuracy"})
    return table[["method", "seed", "step", "accuracy", *KEPT[1:]]]


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Method -> its figures; differences and shares are taken seed by seed."""
    ends = {m: t.dropna(subset="accuracy").groupby("seed").last() for m, t in table.groupby("method", sort=False)}
    base = table[(table["method"] == "grpo") & (table["step"] == 0)].set_index("seed")["accuracy"]
    gains = {method: (end["accuracy"] - base).dropna() for method, end in ends.items()}
    out: dict[str, Any] = {"base": {"accuracy": float(base.mean()), "seeds": sorted(map(int, base.index))}}
    for method in (m for m in METHODS if m in ends):
        end = ends[method]
        late = table[(table["method"] == method) & (table["step"] > int(end["step"].max()) - LAST)]
        row = {
            "seeds": [int(s) for s in end.index],
            "steps": int(end["step"].max()),
            "accuracy": estimated(end["accuracy"], share=True),
            "gain": estimated(gains[method]),
            "share of GRPO gain": estimated((gains[method] / gains["grpo"]).dropna()),
            "above": {
                other: estimated((gains[method] - gains[other]).dropna())
                for other in AGAINST.get(method, ())
                if other in gains
            },
        }
        for name in KEPT[1:-1]:
            values = late.groupby("seed")[name].mean().dropna()
            if len(values):
                row[name] = estimated(values, measure(name).share)
        out[method] = row
    return out


def comparisons(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The family: every comparison of two methods, seed by seed."""
    ends = {
        method: part.dropna(subset="accuracy").groupby("seed").last()["accuracy"]
        for method, part in table.groupby("method", sort=False)
    }
    return {
        f"{METHODS[method]} − {METHODS[other]}": (ends[method] - ends[other]).dropna()
        for method, others in AGAINST.items()
        for other in others
        if method in ends and other in ends
    }


def draw(table: pd.DataFrame, out: Path) -> None:
    """Truth on held-out questions, reward in training, invalid questions and silent groups, against steps."""
    panels = {
        "accuracy": "held-out accuracy",
        "solver/reward": "reward (reward model)",
        "challenger/invalid": "invalid questions, share",
        "frac_reward_zero_std": "groups without variance, share",
    }
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4))
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        for method, colour in COLOURS.items():
            part = table[table["method"].isin([method, f"{method}_long"])].dropna(subset=name)
            if part.empty:
                continue
            wide = part.pivot(index="step", columns="seed", values=name)
            wide = wide if name == "accuracy" else wide.rolling(10, min_periods=1).mean()
            mean = wide.mean(axis=1)
            bands = [estimate(row.dropna(), measure(name).share or name == "accuracy") for _, row in wide.iterrows()]
            low, high = ([getattr(band, end) for band in bands] for end in ("low", "high"))
            axis.plot(mean.index, mean, color=colour, label=METHODS[method], marker="." if name == "accuracy" else None)
            axis.fill_between(mean.index, low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xlabel("step")
        axis.set_title(label, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)


def shown(values: tuple[float, ...] | None, digits: int = 1, factor: float = 100.0) -> str:
    """Mean and interval, in per cent."""
    if values is None:
        return ""
    mean, *ends = (f"{factor * value:.{digits}f}".replace("-", "−") for value in values)
    return mean + (f" [{ends[0]}, {ends[1]}]" if ends else "")


def show(found: dict[str, Any]) -> None:
    """The table of the methods, in Markdown."""
    print(f"Base {100 * found['base']['accuracy']:.1f} % before any step.\n")
    heads = ["method", "held-out, %", "gain, points", "share of GRPO's gain, %", "invalid questions, %"]
    heads += ["reward in training", "truth in training, %"]
    print("| " + " | ".join(heads) + " |\n| --- |" + " ---: |" * (len(heads) - 1))
    for method, row in found.items():
        if method == "base":
            continue
        share = "100" if method == "grpo" else shown(row["share of GRPO gain"], 0)
        cells = [METHODS[method], shown(row["accuracy"]), shown(row["gain"]), share]
        cells += [shown(row.get("challenger/invalid"), 0), shown(row["solver/reward"][:1], 2, 1.0)]
        print("| " + " | ".join([*cells, shown(row["solver/truth"][:1], 0)]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/paper_table"))
    args = parser.parse_args()
    table = pd.read_csv(args.out / "results.csv") if args.folder is None else read(args.folder)
    if "grpo" not in set(table["method"]):
        raise SystemExit(f"{args.folder}/grpo has no finished run, and everything is compared with it; run.sh makes it")
    found = summary(table)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.folder is not None:
        table.round(5).to_csv(args.out / "results.csv", index=False)
    (args.out / "table.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(table, args.out)
    show(found)
    print("\n" + markdown(comparisons(table)))


if __name__ == "__main__":
    main()
