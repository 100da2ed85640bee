"""The tables of a system in experiments/neighbours: what each arm reached, and every planned comparison.

    python experiments/neighbours/summarise.py points multirun/neighbours/points
    python experiments/neighbours/summarise.py points     # without the runs: from the results.json written before

`<system>/plan.yaml` says which overrides make an arm, which figures are read from a run and which comparisons are made.
Intervals are 95 % Student's t over seeds, of shares on the logit scale. p-values of differences are Holm's over all of
a system's comparisons. A comparison with `bound` is one of equivalence, too: two one-sided t-tests (Schuirmann 1987) at
this bound, whose p-values are not corrected.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from selfplay.report.families import markdown
from selfplay.report.statistics import format_estimate
from selfplay.runs import load

HERE = Path(__file__).parent
Plan = Mapping[str, Any]


def arm_of(setting: str, arms: Mapping[str, list[str]]) -> str | None:
    """The arm with the most overrides among those of which this run has all; None if there is none."""
    said = set(setting.replace("\\", "").split())  # Hydra escapes some characters
    fitting = [name for name, overrides in arms.items() if said.issuperset(map(str, overrides))]
    return max(fitting, key=lambda name: len(arms[name]), default=None)


def named(how: Mapping[str, Any]) -> list[str]:
    """The metrics in a figure's formula."""
    return str(how["metric"]).split("`")[1::2] or [str(how["metric"])]


def tokens(lines: pd.DataFrame) -> pd.Series:
    """The tokens up to each step that the learner generated, or that were learnt from where a teacher wrote them."""
    said = lines.get("tokens/generated", pd.Series(0.0, lines.index)).fillna(0.0)
    return (said if said.any() else lines["tokens/kept"].fillna(0.0)).cumsum()


def figure_of(lines: pd.DataFrame, how: Mapping[str, Any]) -> float:
    """One figure of a run.

    Args:
        lines: its metrics by step.
        how: `metric`, a metric's name or a formula of names in backticks, and `at`: "last" or "first" evaluated step,
            "gain" from the first to the last, "sum" over all steps, or [first, last] steps whose mean is taken
            (negative: from the end), or {tokens: n}: the first evaluation after n tokens (with `gain`: less the first).
    """
    at, formula, names = how.get("at", "last"), str(how["metric"]), named(how)
    known = lines[names].dropna() if set(names) <= set(lines.columns) else pd.DataFrame()
    if known.empty:  # this arm does not log it
        return float("nan")
    if isinstance(at, dict):
        after = known[tokens(lines).reindex(known.index) >= at["tokens"]]
        row = after.iloc[0] - (known.iloc[0] if at.get("gain") else 0.0)
    elif isinstance(at, list):
        steps = [one if one >= 0 else int(lines.index.max()) + 1 + one for one in at]
        row = known.loc[steps[0] : steps[1]].mean()
    elif at == "sum":
        row = known.sum()
    elif at == "gain":
        row = known.iloc[-1] - known.iloc[0]
    else:
        row = known.iloc[-1 if at == "last" else 0]
    return float(row[formula]) if names == [formula] else float(pd.DataFrame([row]).eval(formula).iloc[0])


def further_of(name: str) -> Callable[[Any, str], dict[str, float]] | None:
    """`figures(sweep, run)` of a system's own figures.py, for what metrics do not have."""
    path = HERE / name / "figures.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"figures_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Any, str], dict[str, float]] = module.figures
    return found


def figures(name: str, plan: Plan, folder: Path) -> pd.DataFrame:
    """One row per finished run of an arm: arm, seed and figures."""
    sweep, rows = load(folder), []
    if len(sweep.problems):
        print(sweep)
    further = further_of(name)
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        arm = arm_of(run.setting, plan["arms"])
        if arm is None:
            continue
        lines = sweep.metrics[sweep.metrics["run"] == run.run].set_index("step").sort_index()
        row = {"arm": arm, "seed": int(run.seed)}
        row |= {label: figure_of(lines, how) for label, how in plan["figures"].items() if "metric" in how}
        rows.append(row | (further(sweep, run.run) if further else {}))
    return pd.DataFrame(rows).reindex(columns=["arm", "seed", *plan["figures"]])


def ordered(table: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The runs arm by arm, in the plan's order."""
    table["arm"] = pd.Categorical(table["arm"], list(plan["arms"]), ordered=True)
    return table.sort_values(["arm", "seed"]).reset_index(drop=True)


def differences(table: pd.DataFrame, plan: Plan) -> dict[str, tuple[pd.Series, Mapping[str, Any]]]:
    """Name of a comparison -> the differences of the same seeds, and how it was planned."""
    found = {}
    for how in plan["comparisons"]:
        if "minus" in how:  # two figures of the same runs
            of = table[table["arm"] == how["of"]].set_index("seed")
            found[f"{how['of']}: {how['figure']} − {how['minus']}"] = (of[how["figure"]] - of[how["minus"]], how)
            continue
        wide = table.assign(arm=table["arm"].astype(str)).pivot(index="seed", columns="arm", values=how["figure"])
        than = [how["than"]] if isinstance(how["than"], str) else how["than"]  # of several, the best
        if wide[[how["of"], *than]].isna().any(axis=None):
            raise SystemExit(f"seeds are missing in one of: {how['of']}, {', '.join(than)}")
        name = f"{how['of']} − {how.get('called', than[0])}" + (
            "" if how["figure"] == plan["main"] else f", {how['figure']}"
        )
        found[name] = (wide[how["of"]] - wide[than].max(axis=1), how)
    return found


def equivalent(values: pd.Series, bound: float) -> float:
    """The p-value of two one-sided t-tests: the mean difference is within ± bound."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    if not error > 0:
        return float("nan")
    lower, upper = (values.mean() + bound) / error, (values.mean() - bound) / error
    return float(max(stats.t.sf(lower, len(values) - 1), stats.t.cdf(upper, len(values) - 1)))


def show(table: pd.DataFrame, plan: Plan) -> None:
    """The tables, in Markdown."""
    labels = list(plan["figures"])
    if missing := set(plan["arms"]) - set(table["arm"]):
        raise SystemExit(f"no finished run of: {', '.join(sorted(missing))}")
    print("| arm | seeds | " + " | ".join(labels) + " |\n| --- |" + " ---: |" * (1 + len(labels)))
    for arm, part in table.groupby("arm", observed=True):
        cells = [cell(part[label], plan["figures"][label]) for label in labels]
        print(f"| {arm} | {len(part)} | " + " | ".join(cells) + " |")
    made = differences(table, plan)
    scaled = {name: 100 * values if shares(plan, how) else values for name, (values, how) in made.items()}
    print("\n" + markdown(scaled, unit=plan.get("unit", "points"), scale=1.0, digits=plan.get("digits", 1)))
    for name, (values, how) in made.items():
        if "bound" in how:
            scale = 100 if shares(plan, how) else 1
            p = equivalent(values, how["bound"] / scale)
            told = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
            print(f"\nEquivalence of {name} within ± {how['bound']:g} {plan.get('unit', 'points')}: {told}")


def shares(plan: Plan, how: Mapping[str, Any]) -> bool:
    """Whether the figure of a comparison is a share, or a difference of shares (`points`)."""
    figure = plan["figures"][how["figure"]]
    return bool(figure.get("share", False) or figure.get("points", False))


def cell(values: pd.Series, how: Mapping[str, Any]) -> str:
    """An estimate, in per cent where it is a share."""
    known = values.dropna()
    if known.empty:
        return "–"
    share, scale = bool(how.get("share", False)), 100.0 if how.get("share") or how.get("points") else 1.0
    return format_estimate(known, scale=scale, digits=how.get("digits", 1), share=share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, help="folder of results.json (default: that of the system)")
    args = parser.parse_args()
    plan = yaml.safe_load((HERE / args.system / "plan.yaml").read_text(encoding="utf-8"))
    out = args.out or HERE / args.system
    if args.folder is None:
        show(ordered(pd.read_json(out / "results.json"), plan), plan)
        return
    table = ordered(figures(args.system, plan, args.folder), plan)
    (out / "results.json").write_text(
        json.dumps(json.loads(table.round(5).to_json(orient="records")), indent=1) + "\n", encoding="utf-8"
    )
    show(table, plan)


if __name__ == "__main__":
    main()
