"""What Language Self-Play with a frozen judge did to SmolLM2: tables, curves and transcripts.

    python experiments/smollm2_lsp/summarise.py multirun/smollm2_lsp_*   # after measure.py; writes steps.csv, too
    python experiments/smollm2_lsp/summarise.py                          # without the runs: from the committed results

Reads judge.csv, challenges.csv and replies.csv of measure.py, writes steps.csv (a row per run and step), curves.png and
transcripts.md, and prints the tables in Markdown. Intervals are 95 % Student's t intervals over seeds, or over
instructions where the table says so; those of the judge's pairs are intervals of a share.
"""

import argparse
import json
import re
from math import isnan, nan
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from scipy.stats import binomtest

from selfplay.measures import probability
from selfplay.report.families import markdown
from selfplay.report.questions import distinct, words
from selfplay.report.statistics import format_estimate, holm
from selfplay.runs import load
from selfplay.theory.intervals import share

HERE = Path(__file__).parent
ARMS = {"lsp": "LSP"}  # an arm that is run in folders smollm2_lsp_<arm>_<seed> is added here
UNTOUCHED = {"start": "untouched, sampled", "greedy": "untouched, greedy"}
COLOURS = {"lsp": "#D55E00"}
PANELS = {
    "log-likelihood": "log-likelihood of answers under the judge, nats/token",
    "solver/quality": "rubric grade of answers, 0–7",
    "reward/grade": "grade of answers, 0–7",
    "instruction": "Challenger's texts that are instructions, share",
    "solver/length": "answer, tokens",
    "solver/kl": "Solver's KL from the start, nats/token",
}
COUNTED = {  # measure -> column of replies.csv, factor
    "log-likelihood, nats/token": ("log-likelihood", 1),
    "rubric grade, 0–7": ("rubric grade", 1),
    "grade, 0–7": ("grade", 1),
    "right, % of 12": ("right", 100),
    "length, tokens": ("tokens", 1),
    "cut off, %": ("cut off", 100),
    "empty, %": ("empty", 100),
    "repeated trigrams, %": ("repetition", 100),
}
DISTINCT = "distinct-2, %"
VERBS = (
    "calculate choose compare create define describe explain find give list make name solve suggest tell translate "
    "write"
)
TRAINED = {  # in the last `EDGE` steps − in the first: measure -> column of steps.csv, factor
    "log-likelihood in training": ("log-likelihood", 1),
    "rubric grade in training": ("solver/quality", 1),
    "Challenger's instructions, %": ("instruction", 100),
}
EDGE = 4  # steps that count as the first and the last ones


def is_instruction(text: str) -> bool:
    """One line of three words or more that ends as a question, or begins with one of `VERBS` and ends a sentence."""
    line = text.strip().strip("\"'“”").strip()
    if "\n" in line or len(line.split()) < 3:
        return False
    return line.endswith("?") or (line.split()[0].lower() in VERBS.split() and line[-1] in ".!")


def read(folders: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per run and step; a row per turn."""
    lines, turns = [], []
    for folder in folders:
        found = re.fullmatch(r"smollm2_lsp_(\w+)_(\d+)", folder.name)
        sweep = load(folder)
        if found is None or len(sweep.problems) or (sweep.runs["status"] != "finished").any():
            raise SystemExit(f"{folder} is no finished run of this experiment; run run.sh again")
        spoken = sweep.turns_of(sweep.runs["run"].iloc[0]).assign(arm=found[1], seed=int(found[2]))
        asked = spoken[spoken["role"] == "challenger"].groupby("step")["reply"]
        steps = sweep.metrics.set_index("step").sort_index().assign(arm=found[1], seed=int(found[2]))
        steps["instruction"] = asked.agg(lambda texts: texts.map(is_instruction).mean())
        steps["log-likelihood"] = -steps["reward/surprisal"]
        lines.append(steps.reset_index())
        turns.append(spoken)
    wanted = ["arm", "seed", "step", *PANELS, "challenger/kl", "challenger/payoff", "challenger/distinct"]
    return pd.concat(lines)[wanted].round(4), pd.concat(turns)


def tell(turns: pd.DataFrame, out: Path) -> None:
    """Two games of the first, the middle and the last step of every run, abridged."""
    parts = [
        "# Transcripts",
        "",
        "Two games of a step, of each the question and two of the four answers, with their reward (log-likelihood per "
        "token under the judge) and their rubric grade.",
    ]
    for (arm, seed), run in turns.groupby(["arm", "seed"], sort=False):
        last = int(run["step"].max())
        for step in (1, last // 2, last):
            parts += ["", f"## {ARMS[arm]}, seed {seed}, step {step}", ""]
            for _, game in list(run[run["step"] == step].groupby("episode"))[:2]:
                parts.append(
                    f"* **{json.dumps(game[game['role'] == 'challenger'].iloc[0]['reply'], ensure_ascii=False)}**"
                )
                for turn in game[game["role"] == "solver"].head(2).to_dict("records"):
                    given = (turn["score/reward"], turn.get("score/quality", nan))
                    scores = ", ".join(f"{score:.2f}" for score in given if not isnan(score))
                    parts.append(f"    * {json.dumps(turn['reply'], ensure_ascii=False)} → {scores}")
    (out / "transcripts.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def draw(steps: pd.DataFrame, out: Path) -> None:
    """One thin line a seed, one thick line the mean of an arm."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 6))
    for axis, (metric, title) in zip(axes.flat, PANELS.items(), strict=True):
        for arm, part in steps.dropna(subset=metric).groupby("arm", sort=False):
            for _, one in part.groupby("seed"):
                axis.plot(one["step"], one[metric], color=COLOURS[arm], lw=0.6, alpha=0.5)
            mean = part.groupby("step")[metric].mean()
            axis.plot(mean.index, mean, color=COLOURS[arm], lw=1.8, label=ARMS[arm])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)


def judge_table(judge: pd.DataFrame) -> None:
    """How often each judge prefers the reply that is known to be better; Holm's p of a two-sided sign test."""
    names = list(dict.fromkeys(judge["judge"]))
    rows, tests = {}, {}
    for (pairs, by), part in judge.groupby(["pairs", "judge"], sort=False):
        won, decided = int((part["better"] > part["worse"]).sum()), int((part["better"] != part["worse"]).sum())
        half = won + (len(part) - decided) / 2
        low, high = share(half, len(part))
        rows[pairs, by] = (len(part), f"{100 * half / len(part):.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        tests[pairs, by] = binomtest(won, decided).pvalue if decided else 1.0
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    print(
        "| the better reply, the worse | pairs | " + " | ".join(names) + " |\n| --- | ---: |" + " ---: |" * len(names)
    )
    for pairs in dict.fromkeys(judge["pairs"]):
        cells = [f"{rows[pairs, by][1]}, p = {probability(corrected[pairs, by])}" for by in names]
        print(f"| {pairs} | {rows[pairs, names[0]][0]} | " + " | ".join(cells).replace("= <", "<") + " |")


def by_seed(replies: pd.DataFrame, measure: str) -> pd.Series:
    """(arm, seed) -> the measure."""
    if measure == DISTINCT:
        texts = replies.groupby(["arm", "seed", "sample"], sort=False)["text"]
        found = texts.agg(lambda part: distinct([words(text) for text in part], 2))
        return 100 * found.groupby(["arm", "seed"], sort=False).mean()
    column, factor = COUNTED[measure]
    return factor * replies.groupby(["arm", "seed"], sort=False)[column].mean()


def replies_table(replies: pd.DataFrame) -> None:
    """Means over seeds of what can be said of the replies to the instructions."""
    arms = list(dict.fromkeys(replies["arm"]))
    print("\n| replies to the 24 instructions | " + " | ".join((UNTOUCHED | ARMS)[arm] for arm in arms) + " |")
    print("| --- |" + " ---: |" * len(arms))
    for measure in (*COUNTED, DISTINCT):
        found = by_seed(replies, measure)
        cells = [
            format_estimate(found[arm], scale=1, digits=2 if "grade" in measure or "nats" in measure else 1)
            for arm in arms
        ]
        print(f"| {measure} | " + " | ".join(cells) + " |")


def questions_table(steps: pd.DataFrame, challenges: pd.DataFrame) -> None:
    """The Challenger's texts that are instructions, in the first and the last steps."""
    print(
        f"\n| Challenger | seeds | instructions in steps 1–{EDGE}, % | in the last {EDGE}, % "
        f"| distinct in a step of the last {EDGE}, % |"
    )
    print("| --- |" + " ---: |" * 4)
    for arm, part in steps.groupby("arm", sort=False):
        early, late = edges(part, "instruction")
        cells = [format_estimate(x, share=True) for x in (early, late, edges(part, "challenger/distinct")[1])]
        print(f"| {ARMS[arm]} | {part['seed'].nunique()} | " + " | ".join(cells) + " |")
    for prompt, part in challenges.groupby("prompt", sort=False):
        hits, count = int(part["text"].map(is_instruction).sum()), len(part)
        low, high = share(hits, count)
        print(f"\n{prompt} prompt, untouched model: {hits} of {count} [{100 * low:.0f}, {100 * high:.0f}] %")


def edges(steps: pd.DataFrame, metric: str) -> tuple[pd.Series, pd.Series]:
    """By seed, the mean of a metric over the first and over the last steps of an arm."""
    early, late = steps["step"] <= EDGE, steps["step"] > steps["step"].max() - EDGE
    first, last = (steps[rows].groupby("seed")[metric].mean() for rows in (early, late))
    return first, last


def comparisons(replies: pd.DataFrame, steps: pd.DataFrame) -> dict[str, pd.Series]:
    """The family over seeds: after − before of each arm, and LSP − each other arm at the end."""
    arms = [arm for arm in ARMS if arm in set(replies["arm"])]
    measures = [name for name in (*COUNTED, DISTINCT) if not name.startswith("empty")]
    family = {}
    for arm in arms:
        for name in measures:
            found = by_seed(replies, name)
            family[f"{ARMS[arm]}: {name}"] = found[arm] - found["start"]
        for title, (metric, factor) in TRAINED.items():
            early, late = edges(steps[steps["arm"] == arm], metric)
            if late.notna().any():
                family[f"{ARMS[arm]}: {title}"] = factor * (late - early)
    for arm in (*arms[1:], "greedy"):
        for name in ("log-likelihood, nats/token", "rubric grade, 0–7", "right, % of 12"):
            found = by_seed(replies, name)
            other = found["greedy"].iloc[0] if arm == "greedy" else found[arm]
            family[f"{ARMS['lsp']} − {(UNTOUCHED | ARMS)[arm]}: {name}"] = found["lsp"] - other
    for arm in arms[1:]:
        late, other = (edges(steps[steps["arm"] == one], "instruction")[1] for one in ("lsp", arm))
        family[f"{ARMS['lsp']} − {ARMS[arm]}: Challenger's instructions, %"] = 100 * (late - other)
    return family


def by_instruction(replies: pd.DataFrame) -> dict[str, pd.Series]:
    """The same family of after − before, over instructions: means over seeds and samples."""
    arms = [arm for arm in ARMS if arm in set(replies["arm"])]
    measures = [name for name in COUNTED if not name.startswith("empty")]
    family: dict[str, pd.Series] = {}
    for name in measures:
        column, factor = COUNTED[name]
        means = factor * replies.groupby(["arm", "instruction"])[column].mean().dropna()
        family |= {f"{ARMS[arm]}: {name}": means[arm] - means["start"] for arm in arms}
        if name.startswith(("log", "rubric", "right")):
            family[f"{ARMS['lsp']} − {UNTOUCHED['greedy']}: {name}"] = means["lsp"] - means["greedy"]
    return family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.folders:
        order = list(ARMS)
        folders = sorted(args.folders, key=lambda path: (order.index(path.name[12:-2]), path.name))
        steps, turns = read(folders)
        steps.to_csv(args.out / "steps.csv", index=False)
        tell(turns, args.out)
        draw(steps, args.out)
    steps = pd.read_csv(args.out / "steps.csv")
    replies = pd.read_csv(args.out / "replies.csv", keep_default_na=False, na_values={"right": [""]})
    rank = [*UNTOUCHED, *ARMS]
    replies = replies.sort_values("arm", key=lambda names: names.map(rank.index), kind="stable")
    judge_table(pd.read_csv(args.out / "judge.csv"))
    replies_table(replies)
    questions_table(steps, pd.read_csv(args.out / "challenges.csv"))
    for family, unit in ((comparisons(replies, steps), "seeds"), (by_instruction(replies), "instructions")):
        table = markdown(family, unit="in the row's unit", scale=1.0, digits=2)
        print(f"\nOver {unit}:\n\n" + table.replace("of the same seeds", f"of the same {unit}"))


if __name__ == "__main__":
    main()
