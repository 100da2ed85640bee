"""How many questions self-play is worth: tables and plot, from the folders of the runs.

    python experiments/data_equivalent/summarise.py multirun/data_equivalent
    python experiments/data_equivalent/summarise.py      # without the runs: from the results.csv written before

Every arm is read at its first evaluation after TOKENS generated tokens, those of its first stage included, or at its
end if it generates fewer; the tables say how many it was. A seed's crossing is the number of questions at which the
line through its points (accuracy against the logarithm of n) reaches self-play's accuracy of the same seed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfplay.plots.figure_store import INK, save
from selfplay.plots.figures import Line, draw_lines
from selfplay.report.families import markdown
from selfplay.report.statistics import estimate, format_estimate
from selfplay.runs import load

HERE = Path(__file__).parent
TOKENS = 100_000
COUNTS = {"16": 16, "64": 64, "256": 256, "1024": 1024, "4096": 4096, "all": 27_361}  # arm -> questions
FIRST = {  # second stage -> its first stage, and the step that it began from
    "all_then_lsp": ("all", 55),
    "levels_then_lsp": ("levels", 55),
    "families_then_lsp": ("families", 55),
    "lsp_then_all": ("lsp", 32),
}
NAMES = {
    "lsp": "self-play, no questions",
    **{arm: f"data, {arm} questions" for arm in COUNTS},
    "levels": "data, levels 1 and 2 only",
    "families": "data, six families only",
    "all_then_lsp": "data, then self-play",
    "lsp_then_all": "self-play, then data",
    "levels_then_lsp": "levels 1 and 2, then self-play",
    "families_then_lsp": "six families, then self-play",
}
LACKING = {"levels": ["3", "4"], "families": ["count", "length", "last", "shift", "repeat", "remove"]}


def read(folder: Path) -> pd.DataFrame:
    """Arm and seed -> accuracy on all held-out questions, and on those whose level or family the data lacks."""
    sweeps = {arm: load(folder / arm) for arm in NAMES if (folder / arm).is_dir()}
    rows = []
    for arm, sweep in sweeps.items():
        first, step = FIRST.get(arm, (None, 0))
        done = set(sweep.runs.loc[sweep.runs["status"] == "finished", "seed"])
        for seed, run in sweep.metrics.groupby("seed"):
            if seed not in done:
                print(f"{arm}, seed {seed}: not finished, left out")
                continue
            spent = 0.0
            if first:
                earlier = sweeps[first].metrics
                spent = float(earlier[(earlier["seed"] == seed) & (earlier["step"] == step)]["tokens"].iloc[0])
            run = run.dropna(subset="eval/accuracy")
            after = run[run["tokens"].fillna(0) + spent >= TOKENS]
            line = after.iloc[0] if len(after) else run.iloc[-1]  # short answers: an arm may end before
            rows.append({"arm": arm, "seed": seed, **_figures(line, spent)})
    return pd.DataFrame(rows)


def _figures(line: pd.Series, spent: float) -> dict[str, float]:
    parts = {kind: np.mean([line[f"eval/{kind}/{name}"] for name in names]) for kind, names in LACKING.items()}
    return {"accuracy": line["eval/accuracy"], **parts, "step": line["step"], "tokens": line["tokens"] + spent}


def crossings(wide: pd.DataFrame) -> pd.Series:
    """Seed -> log2 of the number of questions at which data reaches self-play; infinite if it never does."""
    x = np.log2(list(COUNTS.values()))
    found = {}
    for seed, row in wide.dropna(subset=["lsp", *COUNTS]).iterrows():
        y, wanted = np.array([row[arm] for arm in COUNTS]), row["lsp"]
        above = np.flatnonzero(y >= wanted)
        if not len(above):
            found[seed] = np.inf
        elif (i := above[0]) == 0:
            found[seed] = -np.inf
        else:
            found[seed] = x[i - 1] + (wanted - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
    return pd.Series(found)


def tell(table: pd.DataFrame) -> dict[str, Any]:
    """Print the tables; what the figures are."""
    wide = {key: table.pivot(index="seed", columns="arm", values=key) for key in ("accuracy", *LACKING)}
    accuracy = wide["accuracy"]
    tokens = table.groupby("arm")["tokens"].mean() / 1000
    print("| arm | seeds | tokens, thousands | held-out, % | on levels 3 and 4, % | on the other six families, % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for arm in (arm for arm in NAMES if arm in accuracy):
        cells = [format_estimate(values[arm].dropna(), share=True) for values in wide.values()]
        print(f"| {NAMES[arm]} | {accuracy[arm].count()} | {tokens[arm]:.0f} | {' | '.join(cells)} |")
    pairs = [("accuracy", "lsp", arm) for arm in COUNTS]
    pairs += [("levels", "lsp", "levels"), ("families", "lsp", "families")]
    pairs += [("levels", "levels_then_lsp", "levels"), ("families", "families_then_lsp", "families")]
    pairs += [("accuracy", arm, "all") for arm in ("all_then_lsp", "lsp_then_all")]
    where = {"accuracy": "", "levels": ", on levels 3 and 4", "families": ", on the other six families"}
    differences = {
        f"{NAMES[one]} − {NAMES[other]}{where[key]}": (wide[key][one] - wide[key][other]).dropna()
        for key, one, other in pairs
        if {one, other} <= set(accuracy)
    }
    print(f"\n{markdown(differences)}\n")
    crossed = crossings(accuracy) if set(COUNTS) | {"lsp"} <= set(accuracy) else pd.Series(dtype=float)
    found: dict[str, Any] = {"log2 crossing by seed": {str(seed): float(x) for seed, x in crossed.items()}}
    if len(crossed) and np.isfinite(crossed).all():
        e = estimate(crossed)
        found["crossing"] = [float(2**x) for x in (e.mean, e.low, e.high)]
        print("data draws level at {:.0f} questions [{:.0f}, {:.0f}]".format(*found["crossing"]))
    else:
        print(f"the crossing by seed, log2: {found['log2 crossing by seed']}")
    return found


def draw(table: pd.DataFrame, crossing: list[float] | None) -> None:
    """Accuracy against the number of questions, with self-play as a line, and where they cross."""
    wide = table.pivot(index="seed", columns="arm", values="accuracy")
    x = np.log2(list(COUNTS.values()))

    def line(label: str, arms: list[str]) -> Line:
        found = [estimate(wide[arm].dropna(), share=True) for arm in arms]
        mean, low, high = (100 * np.array([getattr(e, name) for e in found]) for name in ("mean", "low", "high"))
        return Line(label, x, mean, low, high)

    lines = {0: line("data", list(COUNTS)), 1: line("self-play", ["lsp"] * len(COUNTS))}
    figure = draw_lines(lines, f"Held-out accuracy after {TOKENS:,} tokens", "distinct questions", "accuracy, %")
    axes = figure.axes[0]
    axes.set_xticks(x, list(COUNTS))
    if crossing:
        middle, low, high = np.log2(crossing)
        axes.axvspan(low, high, color=INK, alpha=0.08, linewidth=0)
        axes.axvline(middle, color=INK, linewidth=1, linestyle=":")
    save(figure, HERE / "questions.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    args = parser.parse_args()
    file = HERE / "results.csv"
    table = read(args.folder) if args.folder else pd.read_csv(file, dtype={"arm": str})
    if args.folder:
        table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    found = tell(table)
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    if set(COUNTS) | {"lsp"} <= set(table["arm"]):
        draw(table, found.get("crossing"))


if __name__ == "__main__":
    main()
