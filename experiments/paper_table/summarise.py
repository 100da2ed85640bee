"""The paper's table on the embedded model, from the folders of its runs.

    python experiments/paper_table/summarise.py multirun/paper_table --out experiments/paper_table

Writes results.csv (a row a method, seed and step), table.json and curves.png, and prints the table: held-out accuracy
with 95 % Student's t intervals over the seeds, gains over the base and over GRPO paired by seed.
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
from scipy import stats

from selfplay.runs import load

METHODS = {
    "grpo": "GRPO with data",
    "lsp_zero": "LSP-Zero",
    "lsp": "LSP",
    "grpo_then_grpo": "GRPO, then GRPO",
    "lsp_zero_then_grpo": "LSP-Zero, then GRPO",
    "lsp_then_grpo": "LSP, then GRPO",
}
COLOURS = {"grpo": "#000000", "lsp_zero": "#D55E00", "lsp": "#0072B2"}
KEPT = [
    "eval/accuracy", "solver/reward", "solver/truth", "challenger/invalid", "challenger/distinct",
    "frac_reward_zero_std", "solver/kl", "challenger/kl", "tokens",
]  # fmt: skip
LAST = 10  # steps over which a figure of training is averaged


def estimate(values: np.ndarray) -> tuple[float, float, float] | tuple[float]:
    """Mean and its 95 % Student's t interval; of one seed the mean alone."""
    mean = float(values.mean())
    if len(values) == 1:
        return (mean,)
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return mean, mean - half, mean + half


def read(folder: Path) -> pd.DataFrame:
    """Every method's metrics, a row a seed and step; what is not finished is named and left out."""
    parts = []
    for method in METHODS:
        if not (folder / method).is_dir():
            print(f"{method}: not run")
            continue
        sweep = load(folder / method)
        if len(sweep.problems):
            print(sweep)
        done = sweep.runs.loc[sweep.runs["status"] == "finished", "run"]
        part = sweep.metrics[sweep.metrics["run"].isin(done)].reindex(columns=["seed", "step", *KEPT])
        parts.append(part.assign(method=method))
    table = pd.concat(parts, ignore_index=True).rename(columns={"eval/accuracy": "accuracy"})
    return table[["method", "seed", "step", "accuracy", *KEPT[1:]]]


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Method -> its figures."""
    ends = {m: t.dropna(subset="accuracy").groupby("seed").last() for m, t in table.groupby("method", sort=False)}
    base = table[(table["method"] == "grpo") & (table["step"] == 0)].set_index("seed")["accuracy"]
    out: dict[str, Any] = {"base": {"accuracy": float(base.mean()), "seeds": sorted(map(int, base.index))}}
    for method, end in ends.items():
        late = table[(table["method"] == method) & (table["step"] > int(end["step"].max()) - LAST)]
        seeds = end.index.intersection(base.index)
        row = {
            "seeds": [int(s) for s in end.index],
            "steps": int(end["step"].max()),
            "accuracy": estimate(end["accuracy"].to_numpy()),
            "gain": estimate((end["accuracy"][seeds] - base[seeds]).to_numpy()),
        }
        against = "grpo" if "then" not in method else "grpo_then_grpo"
        if method != against and against in ends:
            both = end.index.intersection(ends[against].index)
            difference = (end["accuracy"][both] - ends[against]["accuracy"][both]).to_numpy()
            row["against"] = {"method": against, "difference": estimate(difference)}
            gains = [float((ends[m]["accuracy"][both] - base[both]).mean()) for m in (method, against)]
            row["share of its gain"] = gains[0] / gains[1]
        for name in KEPT[1:-1]:
            values = late.groupby("seed")[name].mean().dropna().to_numpy()
            if len(values):
                row[name] = estimate(values)
        out[method] = row
    return out


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
            part = table[table["method"] == method].dropna(subset=name)
            if part.empty:
                continue
            wide = part.pivot(index="step", columns="seed", values=name)
            wide = wide if name == "accuracy" else wide.rolling(10, min_periods=1).mean()
            mean = wide.mean(axis=1)
            half = wide.sem(axis=1) * stats.t.ppf(0.975, max(wide.shape[1] - 1, 1))
            axis.plot(mean.index, mean, color=colour, label=METHODS[method], marker="." if name == "accuracy" else None)
            axis.fill_between(mean.index, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
        axis.set_xlabel("step")
        axis.set_title(label, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)


def shown(values: tuple[float, ...]) -> str:
    """Percent: mean and interval."""
    mean, *ends = (100 * value for value in values)
    return f"{mean:.1f}" + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/paper_table"))
    args = parser.parse_args()
    table = read(args.folder)
    if "grpo" not in set(table["method"]):
        raise SystemExit(f"{args.folder}/grpo has no finished run, and everything is compared with it; run.sh makes it")
    found = summary(table)
    args.out.mkdir(parents=True, exist_ok=True)
    table.round(5).to_csv(args.out / "results.csv", index=False)
    (args.out / "table.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(table, args.out)
    print(f"base {100 * found['base']['accuracy']:.1f}")
    for method, row in found.items():
        if method == "base":
            continue
        cells = [f"{METHODS[method]:20s} n={len(row['seeds'])}"]
        for key in ("accuracy", "gain"):
            cells.append(f"{key} {shown(row[key])}")
        if "against" in row:
            cells.append(f"vs {row['against']['method']} {shown(row['against']['difference'])}")
            cells.append(f"share {row['share of its gain']:.2f}")
        if "challenger/invalid" in row:
            cells.append(f"invalid {shown(row['challenger/invalid'])}")
        print("  ".join(cells))


if __name__ == "__main__":
    main()
