"""Reward x regularizer x opponent, from the folders of the runs: what is learnt, what is asked, how far the model goes.

    python experiments/rewards_and_regularisers/summarise.py multirun/rewards_and_regularisers \\
        --paper-table multirun/paper_table
    python experiments/rewards_and_regularisers/summarise.py     # without the runs: from the results.json of before

Writes results.json (a row a run) and curves.png, and prints the tables in Markdown; 95 % Student's t intervals over the
seeds, of shares on the logit scale; every comparison with Holm's p. LSP-Zero with the default regularizer and opponent
is not run again: it is read from the paper table's runs.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate
from selfplay.runs import load

LAST = 10  # steps over which a figure of training is averaged
FACTORS = {"reward": "rm", "regularizer": "kl_reverse", "opponent": "latest"}  # with the defaults
TRAINING = {"invalid": "challenger/invalid", "truth": "solver/truth", "kl": "solver/kl", "ask_kl": "challenger/kl"}
COLOURS = {"none": "#000000", "kl_forward": "#D55E00", "kl_reverse": "#0072B2"}


def lines_of(folder: Path, game: str, until: int | None = None) -> pd.DataFrame:
    """The metrics of every finished run with its factors; what is not finished is named and left out."""
    sweep = load(folder)
    if len(sweep.problems):
        print(sweep)
    parts = []
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        said = dict(part.split("=", 1) for part in run.setting.split() if "=" in part)
        factors = {name: said.get(name, default) for name, default in FACTORS.items()}
        part = sweep.metrics[sweep.metrics["run"] == run.run].assign(game=game, **factors)
        parts.append(part if until is None else part[part["step"] <= until])
    return pd.concat(parts, ignore_index=True)


def ends(lines: pd.DataFrame) -> pd.DataFrame:
    """A row a run: held-out accuracy before and after; of training the mean of the last steps."""
    rows = []
    for key, part in lines.groupby(["game", *FACTORS, "seed"], sort=False):
        part = part.set_index("step").sort_index()
        scores = part["eval/accuracy"].dropna()
        row = dict(zip(("game", *FACTORS, "seed"), key, strict=True)) | {"steps": int(part.index[-1])}
        row |= {"before": scores.iloc[0], "after": scores.iloc[-1], "best": scores.max()}
        rows.append(row | {name: part[m].tail(LAST).mean() for name, m in TRAINING.items()})
    return pd.DataFrame(rows)


def show(runs: pd.DataFrame, by: list[str]) -> None:
    """A table: one row a cell of the factors in `by`."""
    print(
        "| " + " | ".join([*by, "runs", "held-out after, %", "invalid, %", "truth on asked, %", "KL of answers"]) + " |"
    )
    print("|" + " --- |" * len(by) + " ---: |" * 5)
    for key, part in runs.groupby(by, sort=False):
        cells = [
            *key,
            str(len(part)),
            format_estimate(part["after"], share=True),
            f"{100 * part['invalid'].mean():.0f}",
        ]
        print("| " + " | ".join([*cells, f"{100 * part['truth'].mean():.0f}", f"{part['kl'].mean():.2f}"]) + " |")
    print()


def comparisons(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """The family, differences by seed: what a factor does, all else equal; earlier selves under the reward model; and
    the regularizer of LSP-Zero.
    """
    lsp, family = runs[runs["game"] == "lsp"], {}
    for factor, first in zip(FACTORS, ("rm", "none", "latest"), strict=True):
        for name in lsp[factor].unique():
            if name != first:
                for column, title in (("after", "held-out"), ("invalid", "invalid questions")):
                    gap = _difference(lsp, factor, name, first, column)
                    family[f"`{factor}={name}` − `{first}`, {title}"] = gap
    of_model = lsp[lsp["reward"] == "rm"]
    for column, title in (("after", "held-out"), ("invalid", "invalid questions"), ("truth", "truth on what is asked")):
        gap = _difference(of_model, "opponent", "uniform", "latest", column)
        family[f"with `reward=rm`: `opponent=uniform` − `latest`, {title}"] = gap
    zero = runs[runs["game"] == "lsp_zero"]
    if len(zero):
        gap = _difference(zero, "regularizer", "none", "kl_reverse", "after")
        family["LSP-Zero: `regularizer=none` − `kl_reverse`, held-out"] = gap
    return family


def _difference(runs: pd.DataFrame, factor: str, name: str, other: str, column: str) -> pd.Series:
    """By seed, the mean over the other factors."""
    rest = [f for f in FACTORS if f != factor] + ["seed"]
    both = [runs[runs[factor] == value].set_index(rest)[column] for value in (name, other)]
    return (both[0] - both[1]).dropna().groupby("seed").mean()


def tables(runs: pd.DataFrame) -> None:
    """All of them, in Markdown."""
    print(markdown(comparisons(runs)) + "\n")
    lsp, zero = (runs[runs["game"] == game] for game in ("lsp", "lsp_zero"))
    show(lsp, list(FACTORS))
    if len(zero):
        show(zero, ["regularizer", "opponent"])


def draw(lines: pd.DataFrame, out: Path) -> None:
    """Held-out accuracy by reward in LSP; accuracy and invalid questions in LSP-Zero; one line an arm."""
    rewards = list(lines[lines["game"] == "lsp"]["reward"].unique())
    panels = [("lsp", r, "eval/accuracy", f"LSP, reward={r}: held-out, %") for r in rewards]
    if "lsp_zero" in set(lines["game"]):
        panels += [
            ("lsp_zero", "rm", "eval/accuracy", "LSP-Zero, reward=rm: held-out, %"),
            ("lsp_zero", "rm", "challenger/invalid", "LSP-Zero: invalid questions, %"),
        ]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.3))
    for axis, (game, reward, metric, title) in zip(axes, panels, strict=True):
        part = lines[(lines["game"] == game) & (lines["reward"] == reward)].dropna(subset=metric)
        for (regularizer, opponent), arm in part.groupby(["regularizer", "opponent"]):
            mean = arm.groupby("step")[metric].mean()
            mean = mean if metric == "eval/accuracy" else mean.rolling(10, min_periods=1).mean()
            style = "-" if opponent == "latest" else "--"
            axis.plot(mean.index, 100 * mean, style, color=COLOURS[regularizer], label=f"{regularizer}, {opponent}")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylim(*((20, 65) if metric == "eval/accuracy" else (0, 100)))
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(out / "curves.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--paper-table", type=Path, default=Path("multirun/paper_table"))
    parser.add_argument("--out", type=Path, default=Path("experiments/rewards_and_regularisers"))
    args = parser.parse_args()
    if args.folder is None:
        tables(pd.read_json(args.out / "results.json"))
        return
    lines = lines_of(args.folder / "lsp", "lsp")
    if (args.folder / "lsp_zero").is_dir():
        zero = lines_of(args.folder / "lsp_zero", "lsp_zero")
        default = lines_of(args.paper_table / "lsp_zero", "lsp_zero", until=int(zero["step"].max()))
        lines = pd.concat([lines, zero, default[default["seed"].isin(zero["seed"])]], ignore_index=True)
    runs = ends(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(
        json.dumps(json.loads(runs.round(5).to_json(orient="records")), indent=1) + "\n", encoding="utf-8"
    )
    tables(runs)
    draw(lines, args.out)


if __name__ == "__main__":
    main()
