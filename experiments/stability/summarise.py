"""Early warning of a fall: the rule that the training seeds give, and what it does on the others.

    python experiments/stability/summarise.py --choose  # from the training seeds of results.csv: writes rules.json
    python experiments/stability/summarise.py --swap    # what the other seeds would have chosen; prints only
    python experiments/stability/summarise.py           # the tables, from results.csv, reruns.csv and rules.json

Definitions are those of the README's plan. `collect.py` writes results.csv from the runs, `again.py` reruns.csv.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from alarms import (
    LEAST,
    MEASURES,
    OVER,
    STOPPABLE,
    TRAINING,
    Alarm,
    Runs,
    at,
    auc,
    chosen,
    fall,
    leads,
    logging,
    means,
    merit,
    patient,
)

from selfplay.measures import probability
from selfplay.plots.figure_store import COLOURS, INK, save
from selfplay.plots.figures import panel
from selfplay.report.families import markdown
from selfplay.report.statistics import holm
from selfplay.theory.intervals import share

HERE = Path(__file__).parent


def read(file: Path) -> Runs:
    """The runs of results.csv: setting and seed -> lines by step."""
    table = pd.read_csv(file)
    return {(str(s), int(n)): run.set_index("step") for (s, n), run in table.groupby(["setting", "seed"], sort=False)}


def counted(values: np.ndarray) -> str:
    """A share of runs with its interval: 7 / 12, 58 [32, 81]."""
    low, high = share(values.sum(), len(values))
    return (
        f"{values.sum()} / {len(values)}, {100 * values.mean():.0f} [{100 * float(low):.0f}, {100 * float(high):.0f}]"
    )


def table_of_falls(runs: Runs) -> list[str]:
    lines = ["| setting | falls, training | falls, test | accuracy: maximum, % | at the end, % |"]
    lines.append("| --- |" + " ---: |" * 4)
    for setting in dict.fromkeys(setting for setting, _ in runs):
        mine = {seed: run for (name, seed), run in runs.items() if name == setting}
        cells = []
        for part in (True, False):
            found = [np.isfinite(fall(r["accuracy"])) for seed, r in mine.items() if (seed in TRAINING) == part]
            cells.append(f"{sum(found)} / {len(found)}")
        smooth = [run["accuracy"].dropna().rolling(OVER).mean() for run in mine.values()]
        cells += [
            f"{100 * np.mean([s.max() for s in smooth]):.1f}",
            f"{100 * np.mean([s.iloc[-1] for s in smooth]):.1f}",
        ]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return lines


def table_of_measures(rules: Mapping[str, Alarm], training: Runs, test: Runs) -> list[str]:
    heads = ["measure", "alarm", "detected, training, %", "false, training, %"]
    heads += ["detected, test, %", "false, test, %", "lead time, test, steps"]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * 5]
    for name, alarm in sorted(rules.items(), key=lambda item: merit(item[1], logging(item[0], training)), reverse=True):
        cells = [MEASURES[name], str(alarm)]
        for part in (training, test):
            lead, false = leads(alarm, logging(name, part))
            texts = [counted(lead >= LEAST), counted(false)]
            cells += [text.split(", ")[1].split(" [")[0] for text in texts] if part is training else texts
        found = lead[lead >= LEAST]
        cells.append(f"{np.median(found):.0f} ({found.min():.0f} to {found.max():.0f})" if len(found) else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def table_of_auc(training: Runs, test: Runs) -> list[str]:
    found = {name: (auc(name, training), auc(name, test), auc(name, test, within=True)) for name in MEASURES}
    corrected = dict(zip(found, holm([both[1][1] for both in found.values()]), strict=True))
    heads = "| measure | AUC, training | AUC, test | p | p, Holm | AUC within settings, test | pairs |"
    lines = [heads, "| --- |" + " ---: |" * 6]
    for name, (first, then, within) in sorted(found.items(), key=lambda item: -abs(item[1][0][0] - 0.5)):
        cells = [f"{first[0]:.2f}", f"{then[0]:.2f}", probability(then[1]), probability(corrected[name])]
        lines.append("| " + " | ".join([MEASURES[name], *cells, f"{within[0]:.2f}", str(within[2])]) + " |")
    return lines


def savings(rule: Alarm, fixed: int, runs: Runs) -> dict[str, list[float]]:
    """The family: paired differences of accuracy on the test seeds."""
    falling = {key: run for key, run in runs.items() if np.isfinite(fall(run["accuracy"]))}
    family: dict[str, list[float]] = {}
    for words, some in (("all runs", runs), ("runs that fall", falling)):
        family[f"at the rule's alarm − at the end, {words}"] = [at(r, rule.step(r)) - at(r, 60) for r in some.values()]
        family[f"at step {fixed} − at the end, {words}"] = [at(r, fixed) - at(r, 60) for r in some.values()]
    family[f"at the rule's alarm − at step {fixed}, all runs"] = [
        at(r, rule.step(r)) - at(r, fixed) for r in runs.values()
    ]
    family["best evaluation before accuracy stalls − at the end, all runs"] = [
        at(r, patient(r, "even"), "odd") - at(r, 60, "odd") for r in runs.values()
    ]
    family["at the rule's alarm − best evaluation before accuracy stalls, all runs"] = [
        at(r, rule.step(r), "odd") - at(r, patient(r, "even"), "odd") for r in runs.values()
    ]
    return family


def table_of_reruns(table: pd.DataFrame) -> list[str]:
    """What `again.py` found: runs with the rule as an option, and runs that went on from the alarm's checkpoint."""
    stopped = table[table["kind"] == "stopped"]
    lines = ["| run | alarm, from the log | ended after step | exit code | as the plain run until then | message |"]
    lines.append("| --- | ---: | ---: | ---: | --- | --- |")
    for row in stopped.itertuples():
        alarm = "none" if np.isinf(row.alarm) else f"{row.alarm:.0f}"
        same = "yes" if row.same else "no"
        message = row.message if isinstance(row.message, str) else "–"
        lines.append(f"| {row.setting}, seed {row.seed} | {alarm} | {row.ended} | {row.code} | {same} | {message} |")
    return lines


def rolled_back(table: pd.DataFrame, rule: Alarm, runs: Runs) -> dict[str, list[float]]:
    """The family: runs that went on with another setting, against what they would have been."""
    rows = list(table[table["kind"] == "rollback"].itertuples())
    falling = [row for row in rows if np.isfinite(fall(runs[row.setting, row.seed]["accuracy"]))]
    family: dict[str, list[float]] = {}
    for words, some in (("all with an alarm", rows), ("those that fall", falling)):
        ends = [at(runs[row.setting, row.seed], 60) for row in some]
        stops = [at(runs[row.setting, row.seed], rule.step(runs[row.setting, row.seed])) for row in some]
        family[f"rolled back − at the end, {words}"] = [r.accuracy - e for r, e in zip(some, ends, strict=True)]
        family[f"rolled back − at the alarm, {words}"] = [r.accuracy - s for r, s in zip(some, stops, strict=True)]
    return family


def clustered(rule: Alarm, runs: Runs) -> dict[str, list[float]]:
    """The family: differences over all runs as means of a seed's or a setting's runs, which are not independent."""
    table = pd.DataFrame(
        {
            "rule": {key: at(run, rule.step(run)) - at(run, 60) for key, run in runs.items()},
            "best": {key: at(run, patient(run, "even"), "odd") - at(run, 60, "odd") for key, run in runs.items()},
            "both": {
                key: at(run, rule.step(run), "odd") - at(run, patient(run, "even"), "odd") for key, run in runs.items()
            },
        }
    )
    names = {
        "rule": "at the rule's alarm − at the end",
        "best": "best evaluation before accuracy stalls − at the end",
        "both": "at the rule's alarm − best evaluation before accuracy stalls",
    }
    units = (("means of a seed", 1), ("means of a setting", 0))
    return {
        f"{words}, {unit}": table[name].groupby(level=level).mean().tolist()
        for unit, level in units
        for name, words in names.items()
    }


def elsewhere(rule: Alarm, runs: Runs) -> list[str]:
    """The rule on the runs of paper_table, which have other sizes; the limit that those suggest, on both."""
    table = pd.read_csv(HERE.parent / "paper_table" / "results.csv")
    suggested = Alarm("challenger/invalid", 1, 10, 0.6)
    parts = {}
    for method, name in (("lsp_zero", "LSP-Zero"), ("lsp", "LSP")):
        mine = table[table["method"].isin([method, f"{method}_long"])]
        parts[f"paper_table, {name}"] = {(method, int(s)): run.set_index("step") for s, run in mine.groupby("seed")}
    rows = [(name, rule, part) for name, part in parts.items()]
    rows += [(name, suggested, part) for name, part in {**parts, "the 64 runs": runs}.items()]
    lines = ["| runs | alarm | falls | detected, % | false, % | lead time, steps |", "| --- | --- |" + " ---: |" * 4]
    for name, alarm, part in rows:
        lead, false = leads(alarm, part)
        cells = [f"{MEASURES[alarm.measure]} {alarm}", f"{len(lead)} / {len(part)}"]
        cells += [counted(values) if len(values) else "–" for values in (lead >= LEAST, false)]
        found = lead[lead >= LEAST]
        cells.append(f"{np.median(found):.0f} ({found.min():.0f} to {found.max():.0f})" if len(found) else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def draw(rule: Alarm, test: Runs, out: Path) -> None:
    """Of the test seeds: accuracy with the alarms; the rule's measure with its limit."""
    with panel("Held-out accuracy, test seeds", "step", "accuracy, %, mean of three") as (figure, axes):
        for run in test.values():
            smooth = 100 * run["accuracy"].dropna().rolling(OVER).mean().dropna()
            falls, alarm = np.isfinite(fall(run["accuracy"])), rule.step(run)
            axes.plot(smooth.index, smooth, color=COLOURS[1 if falls else 0], linewidth=0.8, alpha=0.8)
            if alarm >= smooth.index[0] and np.isfinite(alarm):
                height = np.interp(alarm, smooth.index, smooth)
                axes.plot(alarm, height, "o", markersize=3.5, color=COLOURS[1 if falls else 0])
        for number, words in ((1, "falls"), (0, "does not fall")):
            axes.plot([], [], color=COLOURS[number], label=words)
        axes.plot([], [], "o", color=INK, markersize=3.5, linestyle="none", label="alarm")
        axes.set_ylim(top=64)
        axes.legend(fontsize=9, loc="upper center", ncols=3, columnspacing=1.0)
    save(figure, out / "accuracy.png")
    words = f"Mean over the last {rule.window} steps, test seeds"
    with panel(words, "step", MEASURES[rule.measure]) as (figure, axes):
        for run in test.values():
            values = means(run, rule.measure, rule.window)
            axes.plot(values.index, values, color=COLOURS[int(np.isfinite(fall(run["accuracy"])))], linewidth=0.8)
        for number, label in ((1, "falls"), (0, "does not fall")):
            axes.plot([], [], color=COLOURS[number], label=label)
        axes.axhline(rule.limit, color=INK, linestyle=":", linewidth=1, label="limit")
        axes.legend(fontsize=9)
    save(figure, out / "measure.png")


def choose(runs: Runs, out: Path) -> None:
    """The alarms that the training seeds give, the rule among them, and the best fixed step."""
    training = {key: run for key, run in runs.items() if key[1] in TRAINING}
    rules = {name: chosen(name, training) for name in MEASURES}
    rule = max(
        STOPPABLE, key=lambda name: merit(rules[name], logging(name, training)) if name != "solver/quality" else (0,)
    )
    accuracy = pd.DataFrame({key: run["accuracy"].dropna() for key, run in training.items()}).mean(axis=1)
    found = {"rule": rule, "fixed step": int(accuracy.idxmax()), "alarms": [asdict(alarm) for alarm in rules.values()]}
    (out / "rules.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(training)} runs, {sum(np.isfinite(fall(r['accuracy'])) for r in training.values())} falls")
    for name, alarm in rules.items():
        print(name, alarm, merit(alarm, logging(name, training)), "<-- the rule" * (name == rule))
    print(accuracy.round(3).to_dict())


def swap(training: Runs, test: Runs) -> None:
    """The rule that the test seeds would have chosen, on the training seeds."""
    alarms = [chosen(name, test) for name in STOPPABLE if name != "solver/quality"]
    rule = max(alarms, key=lambda alarm: merit(alarm, test))
    lead, false = leads(rule, training)
    print(f"{rule.measure} {rule}: {merit(rule, test)}; on the others {counted(lead >= LEAST)}; {counted(false)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--swap", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    runs = read(args.out / "results.csv")
    if args.choose:
        choose(runs, args.out)
        return
    training, test = ({k: r for k, r in runs.items() if (k[1] in TRAINING) == part} for part in (True, False))
    if args.swap:
        swap(training, test)
        return
    found = json.loads((args.out / "rules.json").read_text())
    rules = {alarm["measure"]: Alarm(**alarm) for alarm in found["alarms"]}
    rule, fixed = rules[found["rule"]], found["fixed step"]
    again = pd.read_csv(args.out / "reruns.csv")
    print("\n".join(table_of_falls(runs)), end="\n\n")
    print("\n".join(table_of_measures(rules, training, test)), end="\n\n")
    print("\n".join(table_of_auc(training, test)), end="\n\n")
    print(markdown(savings(rule, fixed, test)), end="\n\n")
    print(markdown(clustered(rule, test)), end="\n\n")
    print("\n".join(table_of_reruns(again)), end="\n\n")
    print(markdown(rolled_back(again, rule, test)), end="\n\n")
    print("\n".join(elsewhere(rule, runs)))
    draw(rule, test, args.out)


if __name__ == "__main__":
    main()
