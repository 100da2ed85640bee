"""Offline Q-learning on logged play: exact returns against the behaviour, by game, behaviour, episodes and alpha.

    python experiments/neighbours/offline_q/summarise.py multirun/offline_q
    python experiments/neighbours/offline_q/summarise.py        # without the runs: from the results.json of before

Writes results.json (a row a run) and prints the tables in Markdown; 95 % Student's t intervals over the five seeds,
which are five logs; every comparison with Holm's p. A return is on the scale on which the behaviour is 0 and the best
response to it 100.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate
from selfplay.runs import load

GAMES = {"kuhn": "Kuhn poker", "dilemma": "dilemma, 5 rounds", "leduc": "Leduc poker"}
FOLDERS = ("kuhn", "dilemma_uniform", "dilemma_skewed", "leduc")
BEHAVIOURS = {1.0: "uniform", 0.25: "skewed"}
ALPHAS = (0.0, 0.1, 1.0)
EPISODES = (100, 1000, 10000)
ALL = 0  # stands for all outcomes, weighted by their probabilities
FEW = EPISODES[0]
MINUS = "\N{MINUS SIGN}"
FACTORS = {"behaviour": "players.behaviour.ratio", "episodes": "episodes", "alpha": "update.alpha"}


def read(folder: Path) -> pd.DataFrame:
    """A row a finished run: game, behaviour, episodes, alpha, seed, exact returns; others are named and left out."""
    rows = []
    for part in ("learnt", "exact"):
        for name in FOLDERS:
            sweep = load(folder / part / name)
            if len(sweep.problems):
                print(sweep)
            after = sweep.metrics[sweep.metrics["step"] == 1].set_index("run")
            for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
                said = dict(entry.split("=", 1) for entry in run.setting.split() if "=" in entry)
                row = {"game": name.split("_")[0], **{name: float(said[option]) for name, option in FACTORS.items()}}
                row |= {"seed": int(run.seed), "episodes": ALL if part == "exact" else int(row["episodes"])}
                values = after.loc[run.run]
                names = {"return": "return", "own": "own_return", "best": "best_return", "share": "share"}
                rows.append(row | {name: float(values[f"eval/{metric}"]) for name, metric in names.items()})
    return pd.DataFrame(rows)


def show(runs: pd.DataFrame) -> None:
    """The tables: what is earned, and every comparison."""
    print("| game | behaviour | its return | best response |\n| --- | --- | ---: | ---: |")
    for (game, behaviour), part in runs.groupby(["game", "behaviour"], sort=False):
        first = part.iloc[0]
        print(f"| {GAMES[game]} | {BEHAVIOURS[behaviour]} | {first['own']:.3f} | {first['best']:.3f} |")
    print("\n| game | behaviour | episodes | α = 0 | α = 0.1 | α = 1 |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for (game, behaviour), part in runs.groupby(["game", "behaviour"], sort=False):
        for episodes in (*EPISODES, ALL):
            cells = [format_estimate(_shares(part, episodes, alpha)).replace("-", MINUS) for alpha in ALPHAS]
            count = "all outcomes" if episodes == ALL else f"{episodes:,}"
            print("| " + " | ".join([GAMES[game], BEHAVIOURS[behaviour], count, *cells]) + " |")
    above = (runs["return"] > runs["best"] + 1e-9).sum()
    print(f"\nRuns above the best response: {above} of {len(runs)}.\n")
    print(markdown(comparisons(runs)))


def comparisons(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """The family: greedy Q of all episodes above the behaviour; of few episodes, alpha above 0 against alpha = 0."""
    family = {}
    for (game, behaviour), part in runs.groupby(["game", "behaviour"], sort=False):
        name = f"{GAMES[game]}, {BEHAVIOURS[behaviour]}"
        family[f"{name}, {EPISODES[-1]:,}: α = 0 {MINUS} behaviour"] = _shares(part, EPISODES[-1], 0.0)
        for alpha in ALPHAS[1:]:
            family[f"{name}, {FEW}: α = {alpha:g} {MINUS} α = 0"] = _shares(part, FEW, alpha) - _shares(part, FEW, 0.0)
    return family


def _shares(part: pd.DataFrame, episodes: int, alpha: float) -> pd.Series:
    """By seed, the return on the scale of behaviour 0 and best response 1."""
    rows = part[(part["episodes"] == episodes) & (part["alpha"] == alpha)]
    return rows.set_index("seed")["share"].sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/neighbours/offline_q"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    if args.folder is None:
        runs = pd.DataFrame(json.loads(file.read_text(encoding="utf-8")))
    else:
        runs = read(args.folder).round(6)
        lines = ",\n".join(json.dumps(row) for row in runs.to_dict("records"))
        file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    show(runs)


if __name__ == "__main__":
    main()
