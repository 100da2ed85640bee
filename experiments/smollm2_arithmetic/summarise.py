"""What SmolLM2 learnt of asking itself, from the folders of the runs.

    python experiments/smollm2_arithmetic/summarise.py multirun/smollm2_arithmetic --out experiments/smollm2_arithmetic
    python experiments/smollm2_arithmetic/summarise.py     # without the runs: from the results.json written before

Writes results.json (a row a run), curves.png and transcripts.md (the first, the middle and the last step), and prints
the tables in Markdown; 95 % Student's t intervals over the seeds, of shares on the logit scale; every comparison with
Holm's p.
"""

import argparse
import json
from math import nan
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from omegaconf import OmegaConf

from selfplay.building import make
from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate
from selfplay.runs import load
from selfplay.tasks.expression import find

ARMS = {"smollm2_arithmetic": "one prompt", "smollm2_arithmetic_spark": "with a spark"}
COLOURS = {"one prompt": "#D55E00", "with a spark": "#0072B2"}
PANELS = {
    "eval/accuracy": "held-out, %",
    "solver/truth": "right on what was asked, %",
    "challenger/invalid": "no question, %",
    "different": "different expressions asked, % of questions",
}


def expression(text: str) -> str | None:
    """What a question asks, whatever its words; None where it is no question."""
    found = find(text)
    return None if found is None else found.text


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A row a run; a row a step; a row a turn."""
    sweep = load(folder)
    if len(sweep.problems):
        print(sweep)
    rows, lines, turns = [], [], []
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        said = dict(part.split("=", 1) for part in run.setting.split() if "=" in part)
        where = {"arm": ARMS[said["experiment"]], "seed": int(run.seed)}
        spoken = sweep.turns_of(run.run)
        asked = spoken[spoken["role"] == "challenger"].assign(asks=lambda t: t["reply"].map(expression))
        steps = sweep.metrics[sweep.metrics["run"] == run.run].assign(**where).set_index("step").sort_index()
        share = asked.groupby("step")["asks"].nunique() / asked.groupby("step").size()
        steps["different"] = share.reindex(steps.index)
        task = make(OmegaConf.load(folder / str(run.run) / "config.yaml").task, "task")
        ever = set(asked["asks"].dropna())
        fresh = [expression(item.question) not in ever for item in task.held_out()]
        scores = {}
        for when, step in (("before", 0), ("after", int(run.steps))):
            found = _evaluation(folder / str(run.run), step)
            correct = [c == "1" for c in found["correct"]]
            scores |= {f"{operation} {when}": found["operations"][operation] for operation in "+-*"}
            unasked = [c for c, is_fresh in zip(correct, fresh, strict=True) if is_fresh]
            scores |= {
                when: sum(correct) / len(correct),
                f"unasked {when}": sum(unasked) / len(unasked) if unasked else nan,
            }
        rows.append(where | scores | {"unasked questions": sum(fresh), "ever asked": len(ever)})
        lines.append(steps.reset_index())
        turns.append(spoken.assign(**where))
    return pd.DataFrame(rows), pd.concat(lines), pd.concat(turns)


def _evaluation(folder: Path, step: int) -> dict[str, Any]:
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        if found["step"] == step:
            return dict(found["eval"])
    raise SystemExit(f"{folder} has no evaluation of step {step}")


def tell(turns: pd.DataFrame, out: Path) -> None:
    """Some games of the first, the middle and the last step of each arm's first seed."""
    parts = [
        "# Transcripts",
        "",
        "The first three games of a step, of each the question and three of the eight answers.",
    ]
    for arm, of_arm in turns[turns["seed"] == turns["seed"].min()].groupby("arm", sort=False):
        last = int(of_arm["step"].max())
        for step in (1, last // 2, last):
            parts += ["", f"## {arm}, step {step}", ""]
            for _, game in list(of_arm[of_arm["step"] == step].groupby("episode"))[:3]:
                question = game[game["role"] == "challenger"].iloc[0]["reply"]
                parts.append(f"* **{json.dumps(question, ensure_ascii=False)}**")
                for turn in game[game["role"] == "solver"].head(3).itertuples():
                    parts.append(f"    * {json.dumps(turn.reply, ensure_ascii=False)} → {turn.payoff:.0f}")
    (out / "transcripts.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def draw(lines: pd.DataFrame, out: Path) -> None:
    """One thin line a seed, one thick line the mean of an arm."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.3))
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for arm, part in lines.dropna(subset=metric).groupby("arm", sort=False):
            for _, one in part.groupby("seed"):
                axis.plot(one["step"], 100 * one[metric], color=COLOURS[arm], lw=0.6, alpha=0.5)
            mean = part.groupby("step")[metric].mean()
            axis.plot(mean.index, 100 * mean, color=COLOURS[arm], lw=1.8, label=arm)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=110)


def show(runs: pd.DataFrame) -> None:
    """The tables in Markdown."""
    heads = ["Challenger", "seeds", "before, %", "after, %", "gain, points", "gain on unasked, points", "ever asked"]
    print("| " + " | ".join(heads) + " |\n| --- |" + " ---: |" * (len(heads) - 1))
    for arm, part in runs.groupby("arm", sort=False):
        gains = (part["after"] - part["before"], part["unasked after"] - part["unasked before"])
        cells = [arm, str(len(part)), *(format_estimate(part[when], share=True) for when in ("before", "after"))]
        print("| " + " | ".join([*cells, *map(format_estimate, gains), f"{part['ever asked'].mean():.0f}"]) + " |")
    print("\n| Challenger | + before → after, % | − | × |\n| --- | ---: | ---: | ---: |")
    for arm, part in runs.groupby("arm", sort=False):
        cells = [
            f"{100 * part[f'{o} before'].mean():.0f} → {format_estimate(part[f'{o} after'], share=True)}" for o in "+-*"
        ]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    print("\n" + markdown(comparisons(runs)))


def comparisons(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """The family, by seed: what each arm gains, on all and on what was never asked, and what the spark changes."""
    family = {}
    for arm, part in runs.groupby("arm", sort=False):
        part = part.set_index("seed")
        family[f"{arm}: after − before"] = part["after"] - part["before"]
        if part["ever asked"].max() > 1:  # else none of the held-out ones was asked
            family[f"{arm}: after − before, never asked"] = part["unasked after"] - part["unasked before"]
    one, spark = (runs[runs["arm"] == arm].set_index("seed") for arm in ARMS.values())
    for column, title in (("after", "all"), ("+ after", "+"), ("- after", "−"), ("* after", "×")):
        family[f"spark − one prompt, {title}"] = spark[column] - one[column]
    return family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/smollm2_arithmetic"))
    args = parser.parse_args()
    if args.folder is None:
        show(pd.read_json(args.out / "results.json"))
        return
    runs, lines, turns = read(args.folder)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(
        json.dumps(json.loads(runs.round(5).to_json(orient="records")), indent=1) + "\n", encoding="utf-8"
    )
    show(runs)
    tell(turns, args.out)
    draw(lines, args.out)


if __name__ == "__main__":
    main()
