"""What the runs of this study logged, a row a run and step.

    python experiments/stability/collect.py multirun/stability        # writes results.csv
    python experiments/stability/collect.py multirun/stability --parts train

Beside the metrics of the runs: held-out accuracy on the questions of even and of odd number; the reward-truth gap; the
share of questions of level 4; and, at every evaluation, self-BLEU and distinct bigrams of the last 5, 10 and 15 steps'
questions.
"""

import argparse
from pathlib import Path

import pandas as pd

from selfplay.report.questions import distinct, goodhart, self_bleu, words
from selfplay.runs import load
from selfplay.runs.sweep import Sweep
from selfplay.tasks.tiny_world import parse

HERE = Path(__file__).parent
EVERY = 5  # steps between evaluations
WINDOWS = (5, 10, 15)
LOGGED = [
    "challenger/invalid", "frac_reward_zero_std", "challenger/entropy", "solver/entropy", "challenger/kl", "solver/kl",
    "challenger/distinct", "solver/distinct", "challenger/length", "solver/reward", "solver/truth", "grad_norm",
    "solver/quality",
]  # fmt: skip


def halves(path: Path) -> pd.DataFrame:
    """Step -> accuracy on the questions of even and of odd number."""
    lines = pd.read_json(path / "metrics.jsonl", lines=True).set_index("step")["eval"].dropna()
    digits = lines.map(lambda found: [int(digit) for digit in found["correct"]])
    return pd.DataFrame(
        {n: digits.map(lambda d, at=at: sum(d[at::2]) / len(d[at::2])) for n, at in (("even", 0), ("odd", 1))}
    )


def diversity(questions: "pd.Series[str]") -> pd.DataFrame:
    """Evaluated step -> self-BLEU and distinct bigrams of the questions of the last steps; those are the index."""
    rows = {}
    for step in range(EVERY, int(questions.index.max()) + 1, EVERY):
        row = {}
        for window in (w for w in WINDOWS if w <= step):
            sentences = [words(text) for text in questions.loc[step - window + 1 : step]]
            row |= {f"self_bleu_{window}": self_bleu(sentences), f"distinct_2_{window}": distinct(sentences, 2)}
        rows[step] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def table_of(sweep: Sweep, setting: str) -> pd.DataFrame:
    """All finished runs of a setting."""
    gaps = goodhart(sweep).set_index(["run", "step"])["gap"]
    parts = []
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        lines = sweep.metrics[sweep.metrics["run"] == run.run].set_index("step")
        part = lines.reindex(columns=["eval/accuracy", *LOGGED]).rename(columns={"eval/accuracy": "accuracy"})
        part = part.join(halves(Path(run.path))).assign(gap=gaps[run.run])
        turns = sweep.turns_of(run.run, range(1, int(run.steps) + 1))
        asked = turns[turns["role"] == "challenger"].set_index("step")["reply"]
        level = asked.map(lambda text: getattr(parse(text), "level", 0) == 4)
        part = part.assign(level_4=level.groupby(level=0).mean()).join(diversity(asked))
        parts.append(part.assign(setting=setting, seed=int(run.seed)).reset_index())
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=["train", "test"])
    args = parser.parse_args()
    folders = [path for part in args.parts for path in sorted((args.folder / part).iterdir())]
    parts = []
    for path in folders:
        sweep = load(path)
        if len(sweep.problems) or not (sweep.runs["status"] == "finished").all():
            print(f"{path} is left out: it has unfinished runs")
            continue
        parts.append(table_of(sweep, path.name))
    table = pd.concat(parts, ignore_index=True).sort_values(["setting", "seed", "step"])
    first = ["setting", "seed", "step", "accuracy", "even", "odd"]
    table = table[first + [name for name in table if name not in first]]
    for name in table.columns[len(first) :]:
        short = table[name].map("{:.3g}".format, na_action="ignore")
        table[name] = short.str.replace(r"^(-?)0\.", r"\1.", regex=True)  # the file is a tenth smaller
    table.to_csv(HERE / "results.csv", index=False, float_format="%.4g", lineterminator="\n")
    print(f"{table.groupby(['setting', 'seed']).ngroups} runs")


if __name__ == "__main__":
    main()
