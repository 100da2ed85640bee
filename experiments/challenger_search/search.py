"""What should a Challenger be paid? A search over the family of payoffs, by successive halving on validation questions.

    python experiments/challenger_search/search.py              # the search, then the winner on fresh seeds
    python experiments/challenger_search/search.py --tables     # without runs: from the results.json written before

Optuna's TPE sampler proposes payoffs (`challenger=family`: a, b, penalty, of; `game.novelty_weight`), each is trained
for the steps of the first rung with the seeds of the search, and the best go on to the next rung. What is maximized is
the accuracy on validation questions (the held-out questions of another seed, without those of the final test). The
winner is then trained on fresh seeds and evaluated once on the test questions, beside every named payoff of
experiments/challenger_payoffs with the same seeds. Started again, the search goes on: finished runs are read.
"""

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pandas as pd
from scipy.stats import spearmanr

from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate, holm
from selfplay.runs.folder import RunFolder
from selfplay.tasks.tiny_world.questions import held_out

HERE = Path(__file__).parent
NAMED = HERE.parent / "challenger_payoffs" / "results.json"
PLACE = "challenger_search"
RUNGS = ((20, 20), (50, 7), (100, 2))  # steps, payoffs that are trained so long
SEARCHED, FRESH = (100, 101), (0, 1, 2)  # seeds
VALIDATION = 1  # task.seed of the validation questions
COMMON = [
    "reward=verifier", "quality=none", "challenger=family", "checkpoint.every=50", "checkpoint.keep=1",
    "+reward@probes.novelty=novelty", "probes.novelty.roles=[challenger]", "probes.novelty.among=step",
]  # fmt: skip
Payoff = dict[str, Any]


def suggested(trial: optuna.Trial) -> Payoff:
    """A payoff of the family."""
    return {
        "challenger.a": round(trial.suggest_float("a", 0.0, 3.0), 3),
        "challenger.b": round(trial.suggest_float("b", 0.0, 3.0), 3),
        "challenger.penalty": round(trial.suggest_float("penalty", 0.0, 2.0), 3),
        "challenger.of": trial.suggest_categorical("of", ["reward", "agreement"]),
        "game.novelty_weight": round(trial.suggest_float("novelty", 0.0, 1.0), 3),
    }


def trained(name: str, payoff: Payoff, steps: int, seeds: tuple[int, ...], task_seed: int) -> pd.DataFrame:
    """Train a payoff with these seeds; a row a seed with the last accuracy, and that of questions not in the test."""
    options = [f"{key}={value}" for key, value in payoff.items()]
    every = f"seed={','.join(map(str, seeds))}"
    command = [sys.executable, "run.py", "-m", *COMMON, *options, every, f"task.seed={task_seed}", f"steps={steps}"]
    subprocess.run([*command, "eval.every=10", f"sweep={PLACE}/{name}"], check=True, cwd=HERE.parents[1])
    tested = {question.text for question in held_out(seed=0)}
    new = [question.text not in tested for question in held_out(seed=task_seed)]
    rows = []
    for number, seed in enumerate(seeds):
        run = RunFolder.open(HERE.parents[1] / "multirun" / PLACE / name / str(number))
        [line] = [line for line in run.metrics() if line["step"] == steps]
        part = [answer == "1" for answer, counts in zip(line["eval"]["correct"], new, strict=True) if counts]
        rows.append({"seed": seed, "accuracy": line["eval"]["accuracy"], "untested": fmean(part or [0])})
    return pd.DataFrame(rows)


def search() -> list[dict[str, Any]]:
    """Every payoff with its validation accuracy at each rung that it reached, the winner first."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8))
    found: list[dict[str, Any]] = []
    for number in range(RUNGS[0][1]):
        trial = study.ask()
        payoff = suggested(trial)
        value = trained(f"trials/{number:02d}", payoff, RUNGS[0][0], SEARCHED, VALIDATION)["untested"].mean()
        study.tell(trial, value)
        found.append({"trial": number, "payoff": payoff, "accuracy": {RUNGS[0][0]: value}})
    for (before, _), (steps, kept) in pairwise(RUNGS):
        left = sorted((one for one in found if before in one["accuracy"]), key=lambda one: -one["accuracy"][before])
        for one in left[:kept]:
            rows = trained(f"trials/{one['trial']:02d}", one["payoff"], steps, SEARCHED, VALIDATION)
            one["accuracy"][steps] = rows["untested"].mean()
    last = RUNGS[-1][0]
    return sorted(found, key=lambda one: (-len(one["accuracy"]), -max(one["accuracy"].get(last, 0), 0)))


def show(results: dict[str, Any]) -> None:
    """The tables, in Markdown."""
    steps = [str(rung) for rung, _ in RUNGS]
    print("| trial | a | b | penalty | of | novelty | " + " | ".join(f"{step} steps" for step in steps) + " |")
    print("| ---: |" + " ---: |" * (5 + len(steps)))
    for one in results["trials"]:
        reached = {str(step): value for step, value in one["accuracy"].items()}
        cells = [f"{100 * reached[step]:.1f}" if step in reached else "" for step in steps]
        print(f"| {one['trial']} | {' | '.join(map(str, one['payoff'].values()))} | {' | '.join(cells)} |")
    correlations(results["trials"])
    winner = pd.Series({row["seed"]: row["accuracy"] for row in results["winner"]})
    named = pd.DataFrame(json.loads(NAMED.read_text())).pivot(index="seed", columns="arm", values="accuracy after")
    named = named.loc[winner.index]
    print("\n| payoff | seeds | held-out, % |\n| --- | ---: | ---: |")
    for arm, values in {"winner of the search": winner, **named}.items():
        print(f"| {arm} | {len(values)} | {format_estimate(values, share=True)} |")
    print("\n" + markdown({f"winner − {arm}": winner - values for arm, values in named.items()}))


def correlations(trials: list[dict[str, Any]]) -> None:
    """Of each parameter with the accuracy at the first rung, which every trial reached."""
    first = str(RUNGS[0][0])
    accuracy = [{str(step): value for step, value in one["accuracy"].items()}[first] for one in trials]
    names = [name for name, value in trials[0]["payoff"].items() if isinstance(value, float)]
    found = [spearmanr([one["payoff"][name] for one in trials], accuracy) for name in names]
    print(f"\n| parameter | rank correlation with accuracy at {first} steps | p | p, Holm |")
    print("| --- | ---: | ---: | ---: |")
    for name, one, corrected in zip(names, found, holm([one.pvalue for one in found]), strict=True):
        print(f"| `{name}` | {one.statistic:.2f} | {one.pvalue:.2g} | {corrected:.2g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="print the tables of results.json")
    file = HERE / "results.json"
    if not parser.parse_args().tables:
        trials = search()
        winner = trained("winner", trials[0]["payoff"], RUNGS[-1][0], FRESH, 0)
        file.write_text(json.dumps({"trials": trials, "winner": winner.to_dict("records")}, indent=1) + "\n")
    show(json.loads(file.read_text()))


if __name__ == "__main__":
    main()
