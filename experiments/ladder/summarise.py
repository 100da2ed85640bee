"""Self-play and data on the ladder at equal tokens: tables and plots, from the folders of the runs.

    python experiments/ladder/summarise.py multirun/ladder
    python experiments/ladder/summarise.py      # without the runs: from the csv files written before

Every arm is read at its first evaluation after each of BUDGETS generated tokens. The gain is accuracy there minus that
before training; an arm's share is its gain divided by that of a data arm, seed by seed.
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
BUDGETS = (200_000, 400_000)
DATA, SAME, PLAY = "data", "data_same", "play"
NAMES = {
    DATA: "data, GRPO",
    SAME: "data, the rule of self-play",
    "data_low": "data of levels 1 and 2, GRPO",
    "data_chosen": "data, the least solved of a pool, GRPO",
    PLAY: "self-play (spice)",
    "play_r_zero": "self-play (r_zero)",
    "play_zero_sum": "self-play (lsp_zero)",
    "play_league": "self-play (spice), past selves",
    "play_vote": "self-play (spice), paid by majority vote",
}
DRAWN = (DATA, SAME, "data_low", PLAY, "play_r_zero", "play_zero_sum")
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


def at_tokens(table: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """The evaluation of each arm and seed at a budget, with the gain over the accuracy before training."""
    rows = []
    for _, run in table.sort_values("step").groupby(["arm", "seed"], sort=False):
        after = run[run["tokens"] >= tokens]
        if len(after):
            rows.append({**after.iloc[0].to_dict(), "gain": after["accuracy"].iloc[0] - run["accuracy"].iloc[0]})
    return pd.DataFrame(rows)


def show(table: pd.DataFrame) -> None:
    """The tables, in Markdown."""
    print(f"before training: {100 * table.loc[table['step'] == 0, 'accuracy'].mean():.1f} %\n")
    print(
        "| tokens | questions | seeds | held-out, % | gain, points | of the gain of GRPO, % | of that of its rule, % |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    differences = {}
    for tokens in BUDGETS:
        found = at_tokens(table, tokens)
        accuracy, gain = (found.pivot(index="seed", columns="arm", values=key) for key in ("accuracy", "gain"))
        arms = [arm for arm in NAMES if arm in gain]
        for arm in arms:
            held, gained = format_estimate(accuracy[arm].dropna(), share=True), format_estimate(gain[arm].dropna())
            shares = [
                "100" if arm == of else format_estimate((gain[arm] / gain[of]).dropna(), digits=0)
                for of in (DATA, SAME)
                if of in gain
            ]
            spent = found.loc[found["arm"] == arm, "tokens"].mean() / 1000
            cells = [f"{spent:.0f},000", NAMES[arm], str(gain[arm].count()), held, gained, *shares]
            print(f"| {' | '.join(cells)} |")
        plays = [arm for arm in arms if arm.startswith("play")]
        pairs = [(arm, of) for arm in plays for of in (DATA, SAME) if of in arms]
        pairs += [
            (arm, of) for arm in (PLAY, "play_r_zero") for of in ("data_low", "data_chosen") if {arm, of} <= set(arms)
        ]
        for one, other in pairs:
            name = f"{tokens // 1000},000 tokens: {NAMES[one]} − {NAMES[other]}"
            differences[name] = (gain[one] - gain[other]).dropna()
    print(f"\n{markdown(differences)}\n")
    print("| at 400,000 tokens | " + " | ".join(f"level {level}" for level in LEVELS) + " |")
    print("| --- |" + " ---: |" * len(LEVELS))
    found = at_tokens(table, BUDGETS[-1])
    for arm in (arm for arm in NAMES if arm in set(found["arm"])):
        part = found[found["arm"] == arm]
        print(
            f"| {NAMES[arm]} | " + " | ".join(f"{100 * part[f'level {level}'].mean():.0f}" for level in LEVELS) + " |"
        )


def draw(table: pd.DataFrame, asked: pd.DataFrame, out: Path) -> None:
    """Accuracy against tokens, and the mean level asked against steps."""
    lines = {}
    for index, arm in enumerate(arm for arm in DRAWN if arm in set(table["arm"])):
        part = table[table["arm"] == arm].groupby("step")
        found = [estimate(values["accuracy"], share=True) for _, values in part]
        mean, low, high = (100 * np.array([getattr(e, name) for e in found]) for name in ("mean", "low", "high"))
        lines[index] = Line(NAMES[arm], part["tokens"].mean().to_numpy() / 1000, mean, low, high)
    save(
        draw_lines(lines, "Held-out accuracy on the ladder", "generated tokens, thousands", "accuracy, %"),
        out / "accuracy.png",
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
    save(draw_lines(lines, "Level of the questions asked", "step", "mean level"), out / "levels.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the figures")
    args = parser.parse_args()
    files = HERE / "evaluations.csv", HERE / "asked.csv"
    if args.folder:
        for table, file in zip(read(args.folder), files, strict=True):
            table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    table, asked = map(pd.read_csv, files)
    show(table)
    draw(table, asked, args.out)


if __name__ == "__main__":
    main()
