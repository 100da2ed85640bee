"""Self-play and data on the ladder at equal tokens: tables and plots, from the folders of the runs.

    python experiments/ladder/summarise.py multirun/ladder
    python experiments/ladder/summarise.py      # without the runs: from the csv files written before

Every arm is read at its first evaluation after TOKENS generated tokens. The gain is accuracy there minus that before
training; an arm's share is its gain divided by that of GRPO with data of all levels, seed by seed.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from selfplay.plots.figure_store import save
from selfplay.plots.figures import Line, draw_lines
from selfplay.report.families import markdown
from selfplay.report.statistics import estimate, format_estimate
from selfplay.runs import load
from selfplay.tasks.ladder import QUESTION

HERE = Path(__file__).parent
TOKENS = 200_000
DATA = "data"
NAMES = {
    DATA: "data, all levels",
    "data_low": "data, levels 1 and 2",
    "data_chosen": "data, the least solved of a pool",
    "play": "self-play (spice)",
    "play_r_zero": "self-play (r_zero)",
    "play_zero_sum": "self-play (lsp_zero)",
    "play_league": "self-play (spice), past selves",
    "play_vote": "self-play (spice), paid by majority vote",
}
LEVELS = [str(level) for level in range(1, 9)]


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every evaluation (arm, seed, step, tokens, accuracies), and the mean level asked by arm, seed and step."""
    evaluations, asked = [], []
    for arm in NAMES:
        if not (folder / arm).is_dir():
            continue
        sweep = load(folder / arm)
        done = set(sweep.runs.loc[sweep.runs["status"] == "finished", "run"])
        for run, lines in sweep.metrics.groupby("run"):
            if run not in done:
                print(f"{arm}, {run}: not finished, left out")
                continue
            seed = int(lines["seed"].iloc[0])
            for line in lines.dropna(subset="eval/accuracy").to_dict("records"):
                levels = {f"level {level}": line[f"eval/levels/{level}"] for level in LEVELS}
                tokens = 0.0 if np.isnan(line["tokens"]) else line["tokens"]
                figures = {"step": line["step"], "tokens": tokens, "accuracy": line["eval/accuracy"]}
                evaluations.append({"arm": arm, "seed": seed, **figures, **levels})
            turns = sweep.turns_of(run)
            turns = turns[turns["role"] == ("chance" if arm.startswith("data") else "challenger")]
            found = turns["reply"].map(lambda text: QUESTION.fullmatch(text))
            level = found.map(lambda match: len(match[1]) if match else np.nan)
            for step, part in level.groupby(turns["step"].astype(int)):
                asked.append(
                    {"arm": arm, "seed": seed, "step": step, "level": part.mean(), "valid": part.notna().mean()}
                )
    return pd.DataFrame(evaluations), pd.DataFrame(asked)


def at_tokens(table: pd.DataFrame) -> pd.DataFrame:
    """The evaluation of each arm and seed that is read, with the accuracy before training."""
    rows = []
    for _, run in table.sort_values("step").groupby(["arm", "seed"], sort=False):
        after = run[run["tokens"] >= TOKENS]
        if after.empty:
            print(f"{run['arm'].iloc[0]}, seed {run['seed'].iloc[0]}: only {run['tokens'].max():,.0f} tokens, left out")
            continue
        rows.append({**after.iloc[0].to_dict(), "before": run["accuracy"].iloc[0]})
    return pd.DataFrame(rows)


def show(table: pd.DataFrame) -> None:
    """The tables, in Markdown."""
    read_at = at_tokens(table)
    wide = {key: read_at.pivot(index="seed", columns="arm", values=key) for key in ("accuracy", "before", "tokens")}
    gain = wide["accuracy"] - wide["before"]
    arms = [arm for arm in NAMES if arm in gain]
    print(f"before training: {100 * read_at['before'].mean():.1f} %\n")
    print("| questions | seeds | tokens, thousands | held-out, % | gain, points | share of the gain with data, % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for arm in arms:
        share = "100" if arm == DATA else format_estimate((gain[arm] / gain[DATA]).dropna(), digits=0)
        cells = [
            format_estimate(wide["accuracy"][arm].dropna(), share=True),
            format_estimate(gain[arm].dropna()),
            share,
        ]
        tokens = wide["tokens"][arm].mean() / 1000
        print(f"| {NAMES[arm]} | {gain[arm].count()} | {tokens:.0f} | {' | '.join(cells)} |")
    print(
        f"\n{markdown({f'{NAMES[a]} − {NAMES[DATA]}': (gain[a] - gain[DATA]).dropna() for a in arms if a != DATA})}\n"
    )
    print("| questions | " + " | ".join(f"level {level}" for level in LEVELS) + " |")
    print("| --- |" + " ---: |" * len(LEVELS))
    for arm in arms:
        part = read_at[read_at["arm"] == arm]
        print(
            f"| {NAMES[arm]} | " + " | ".join(f"{100 * part[f'level {level}'].mean():.0f}" for level in LEVELS) + " |"
        )


def draw(table: pd.DataFrame, asked: pd.DataFrame) -> None:
    """Accuracy against tokens, and the mean level asked against steps."""
    lines = {}
    for index, arm in enumerate(arm for arm in NAMES if arm in set(table["arm"])):
        part = table[table["arm"] == arm].groupby("step")
        found = [estimate(values["accuracy"], share=True) for _, values in part]
        mean, low, high = (100 * np.array([getattr(e, name) for e in found]) for name in ("mean", "low", "high"))
        lines[index] = Line(NAMES[arm], part["tokens"].mean().to_numpy() / 1000, mean, low, high)
    save(
        draw_lines(lines, "Held-out accuracy on the ladder", "generated tokens, thousands", "accuracy, %"),
        HERE / "accuracy.png",
    )
    lines = {}
    for index, arm in enumerate(arm for arm in NAMES if arm in set(asked["arm"])):
        if arm.startswith("data"):
            continue
        part = asked[asked["arm"] == arm]
        mean = part.groupby(part["step"] // 5 * 5)["level"].mean()
        lines[index] = Line(
            NAMES[arm], mean.index.to_numpy(dtype=float), mean.to_numpy(), mean.to_numpy(), mean.to_numpy()
        )
    save(draw_lines(lines, "Level of the questions asked", "step", "mean level"), HERE / "levels.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    args = parser.parse_args()
    files = HERE / "evaluations.csv", HERE / "asked.csv"
    if args.folder:
        for table, file in zip(read(args.folder), files, strict=True):
            table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    table, asked = map(pd.read_csv, files)
    show(table)
    draw(table, asked)


if __name__ == "__main__":
    main()
