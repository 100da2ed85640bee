"""Questions under each Challenger payoff, V, zero-variance groups and held-out accuracy, from the folders of the runs.

    python experiments/challenger_payoffs/summarise.py multirun/challenger_payoffs --out experiments/challenger_payoffs
    python experiments/challenger_payoffs/summarise.py     # without the runs: from the results.json written before

Writes results.json and asked.png and prints the tables in Markdown. Intervals are 95 % Student's t over seeds, of
shares on the logit scale; every comparison with Holm's p.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from selfplay.report.families import markdown
from selfplay.report.questions import asked
from selfplay.report.statistics import format_estimate
from selfplay.runs import load
from selfplay.tasks.tiny_world import FAMILIES, LEVELS

LAST = 20  # steps over which a figure of the end is averaged, as over so many at the beginning
ARMS = {  # what tells an arm's overrides -> its name
    "game=dataset": "data (no Challenger)",
    "game.quality_weight=1.0": "lsp",
    "game.quality_weight=0.2": "lsp, w = 0.2",
    "challenger=lsp_zero": "lsp_zero",
    "challenger=absolute_zero": "absolute_zero",
    "challenger=r_zero": "r_zero",
    "challenger=sqlm": "sqlm",
    "challenger=spice": "spice",
}
DATA = "data (no Challenger)"
LEARNABILITY = ["absolute_zero", "r_zero", "sqlm", "spice"]
ADVERSARIAL = ["lsp", "lsp, w = 0.2", "lsp_zero"]
TRAINING = {"V": "solver/reward", "silent": "frac_reward_zero_std", "distinct": "challenger/distinct"}


def arm(setting: str) -> str:
    """The name of an arm."""
    [name] = [name for said, name in ARMS.items() if said in setting.split()]
    return name


def figures(folder: Path) -> pd.DataFrame:
    """One row a run: held-out accuracy before and after (all, and level 4); at both ends of training V, the share of
    groups without variance, and what was asked.
    """
    sweep = load(folder)
    if len(sweep.problems):
        print(sweep)
    rows = []
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        lines = sweep.metrics[sweep.metrics["run"] == run.run].set_index("step")
        row = {"arm": arm(run.setting), "seed": int(run.seed)}
        for when, at in (("before", 0), ("after", int(run.steps))):
            row[f"accuracy {when}"] = lines.loc[at, "eval/accuracy"]
            row[f"trap {when}"] = lines.loc[at, "eval/levels/4"]
        steps = {"first": range(1, LAST + 1), "last": range(int(run.steps) - LAST + 1, int(run.steps) + 1)}
        for when, some in steps.items():
            row |= {f"{n} {when}": lines.loc[list(some), m].mean() for n, m in TRAINING.items() if m in lines}
            turns = sweep.turns_of(run.run, some)
            role = "chance" if row["arm"].startswith("data") else "challenger"
            [questions] = asked(turns, bins=1, role=role).to_dict("records")
            row |= {f"{n} {when}": questions[n] for n in ("valid", "self_bleu")}
            row |= {f"level {n} {when}": questions[f"level/{n}"] for n in LEVELS}
            shares = np.array([questions[f"family/{n}"] for n in FAMILIES])
            known = shares[shares > 0] / max(shares.sum(), 1e-9)
            row[f"families {when}"] = float(np.exp(-(known * np.log(known)).sum()))  # perplexity: as many alike
        rows.append(row)
    return ordered(pd.DataFrame(rows))


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The runs arm by arm, in the order of `ARMS`."""
    table["arm"] = pd.Categorical(table["arm"], [n for n in ARMS.values() if n in set(table["arm"])], ordered=True)
    return table.sort_values(["arm", "seed"]).reset_index(drop=True)


def show(table: pd.DataFrame) -> None:
    """The tables, in Markdown."""
    print("| payoff | seeds | held-out after, % | gain, points | level 4 after, % |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, part in table.groupby("arm", observed=True):
        gain = part["accuracy after"] - part["accuracy before"]
        after, trap = (format_estimate(part[f"{column} after"], share=True) for column in ("accuracy", "trap"))
        print(f"| {name} | {len(part)} | {after} | {format_estimate(gain)} | {trap} |")
    print("\n" + markdown(comparisons(table)))
    print(f"\nFirst {LAST} steps → last {LAST}, means over seeds:\n")
    columns = {"valid": 100, "level 4": 100, "V": 1, "silent": 100, "families": 1, "self_bleu": 1}
    print("| payoff | valid, % | level 4, % | V | zero-variance groups, % | families (perplexity) | self-BLEU |")
    print("| --- |" + " ---: |" * len(columns))
    for name, part in table.groupby("arm", observed=True):
        cells = [
            " → ".join(
                f"{scale * part[f'{c} {when}'].mean():.{0 if scale == 100 else 2}f}" for when in ("first", "last")
            )
            for c, scale in columns.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def comparisons(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The family: held-out accuracy, seed by seed, of every arm against data, and of the two kinds of payoff."""
    wide = table.assign(arm=table["arm"].astype(str)).pivot(index="seed", columns="arm", values="accuracy after")
    kinds = {name: wide[arms].mean(axis=1) for name, arms in (("learn", LEARNABILITY), ("zero", ADVERSARIAL))}
    family = {f"{name} − data": wide[name] - wide[DATA] for name in ARMS.values() if name != DATA}
    family["mean of the four for learnability − data"] = kinds["learn"] - wide[DATA]
    family["mean of the four − mean of the three adversarial"] = kinds["learn"] - kinds["zero"]
    return family


def draw(folder: Path, table: pd.DataFrame, out: Path) -> None:
    """Of each arm: levels asked over time; and of all: held-out accuracy, V, zero-variance groups."""
    sweep = load(folder)
    names = list(table["arm"].cat.categories)
    figure, axes = plt.subplots(2, len(names), figsize=(2.3 * len(names), 4.6), sharex=True, squeeze=False)
    shades = ["#cfe3f3", "#8fbfe0", "#3f8dc4", "#b2182b", "#bbbbbb"]
    for column, name in enumerate(names):
        runs = [r.run for r in sweep.runs.itertuples() if r.status == "finished" and arm(r.setting) == name]
        role = "chance" if name.startswith("data") else "challenger"
        bins = pd.concat([asked(sweep.turns_of(run), bins=10, role=role, sample=2) for run in runs])
        means = bins.groupby("first")[[f"level/{n}" for n in (*LEVELS, "other")]].mean()
        top = axes[0, column]
        top.stackplot(means.index + 5, 100 * means.to_numpy().T, colors=shades)
        top.set_title(name, fontsize=9)
        top.set_ylim(0, 100)
        lines = sweep.metrics[sweep.metrics["run"].isin(runs)].groupby("step")
        bottom = axes[1, column]
        for metric, colour, label in (
            ("eval/accuracy", "#000000", "held-out accuracy"),
            ("solver/reward", "#0072B2", "V, on what is asked"),
            ("frac_reward_zero_std", "#E69F00", "zero-variance groups"),
        ):
            mean = lines[metric].mean().dropna()
            smooth = mean if metric == "eval/accuracy" else mean.rolling(10, min_periods=1).mean()
            bottom.plot(smooth.index, 100 * smooth, color=colour, lw=1.4, label=label)
        bottom.set_ylim(0, 100)
        bottom.set_xlabel("step", fontsize=8)
        for axis in (top, bottom):
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            if column:
                axis.set_yticklabels([])
    axes[0, 0].set_ylabel("asked, % by level\n(red: 4, the trap; grey: invalid)", fontsize=8)
    axes[1, 0].set_ylabel("%", fontsize=8)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out / "asked.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/challenger_payoffs"))
    args = parser.parse_args()
    if args.folder is None:
        show(ordered(pd.read_json(args.out / "results.json")))
        return
    table = figures(args.folder)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(
        json.dumps(json.loads(table.round(5).to_json(orient="records")), indent=1) + "\n", encoding="utf-8"
    )
    show(table)
    draw(args.folder, table, args.out)


if __name__ == "__main__":
    main()
