"""The tables of a system in experiments/neighbours: what each arm reached, and every planned comparison.

    python experiments/neighbours/summarise.py points multirun/neighbours/points
    python experiments/neighbours/summarise.py points     # without the runs: from the results.json written before

`<system>/plan.yaml` says which overrides make an arm, which figures are read from a run and which comparisons are made.
From runs, results.json is written, and the tables of this system's README.md and of the plan's `pages` are replaced.
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
    """The tokens up to each step that players generated, or that were learnt from where a teacher wrote them."""
    said = lines.get("tokens/generated", pd.Series(0.0, lines.index)).fillna(0.0)
    if not said.any() and "tokens/kept" in lines:
        said = lines["tokens/kept"].fillna(0.0)
    return said.cumsum()


def figure_of(lines: pd.DataFrame, how: Mapping[str, Any]) -> float:
    """One figure of a run.

    Args:
        lines: its metrics by step, with the tokens counted up to each step as `tokens`, if `at` asks for them.
        how: `metric`, a metric's name or a formula of names in backticks, and `at`: "last" or "first" evaluated step,
            "gain" from the first to the last, "sum" over all steps, or [first, last] steps whose mean is taken
            (negative: from the end), or {tokens: n}: the first evaluation after n tokens (with `gain`: less the first;
            with `else: last` the last one of a run that ends before).
    """
    at, formula, names = how.get("at", "last"), str(how["metric"]), named(how)
    known = lines[names].dropna() if set(names) <= set(lines.columns) else pd.DataFrame()
    if known.empty:  # this arm does not log it
        return float("nan")
    if isinstance(at, dict):
        after = known[lines["tokens"].reindex(known.index) >= at["tokens"]]
        if after.empty and at.get("else") != "last":
            raise SystemExit(
                f"a run ended after {lines['tokens'].max():.0f} of {at['tokens']} tokens; give it more steps"
            )
        row = (known.iloc[-1] if after.empty else after.iloc[0]) - (known.iloc[0] if at.get("gain") else 0.0)
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
    """One row per finished run of an arm: arm, seed and figures.

    `tokens` of the plan says of an arm how many each generated one counts (`each`), and which runs of the same seed
    came `before` and count, too. A figure may be that of the same seed's run of another arm (`from`), divided by
    another figure of its row (`over`), and different in some arms (`by_arm`).
    """
    sweep, rows, runs = load(folder), [], {}
    if len(sweep.problems):
        print(sweep)
    further, counts = further_of(name), plan.get("tokens", {})
    before = {arm: how["before"] for arm, how in counts.items() if "before" in how}
    for run in sweep.runs[sweep.runs["status"] == "finished"].itertuples():
        arm = arm_of(run.setting, plan["arms"] | {f"before {arm}": said for arm, said in before.items()})
        if arm is None:
            continue
        if (arm, int(run.seed)) in runs:
            raise SystemExit(f"two finished runs of seed {run.seed} of: {arm}; remove one of them")
        lines = sweep.metrics[sweep.metrics["run"] == run.run].set_index("step").sort_index()
        runs[arm, int(run.seed)] = run.run, lines.assign(tokens=tokens(lines) * counts.get(arm, {}).get("each", 1))
    for (arm, seed), (run, lines) in runs.items():
        if arm not in plan["arms"]:
            continue
        if arm in before:
            _, earlier = other(runs, f"before {arm}", seed)
            lines["tokens"] += earlier["tokens"].iloc[-1]
        row: dict[str, Any] = {"arm": arm, "seed": seed}
        hows = {label: how | how.get("by_arm", {}).get(arm, {}) for label, how in plan["figures"].items()}
        for label, how in hows.items():
            if "metric" in how:
                row[label] = figure_of(other(runs, how["from"], seed)[1] if "from" in how else lines, how)
        for label, how in hows.items():
            if how.get("over"):
                row[label] /= row[how["over"]]
        rows.append(row | (further(sweep, run) if further else {}))
    return pd.DataFrame(rows).reindex(columns=["arm", "seed", *plan["figures"]])


def other(runs: Mapping[Any, tuple[str, pd.DataFrame]], arm: Any, seed: int) -> tuple[str, pd.DataFrame]:
    """The run of this seed that figures of another arm need."""
    if (arm, seed) not in runs:
        raise SystemExit(f"no finished run of seed {seed} of: {arm}")
    return runs[arm, seed]


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


def tables(table: pd.DataFrame, plan: Plan) -> list[str]:
    """The lines of the tables, in Markdown."""
    labels, told = list(plan["figures"]), plan.get("told", {})
    if missing := set(plan["arms"]) - set(table["arm"]):
        raise SystemExit(f"no finished run of: {', '.join(sorted(missing))}")
    lines = ["| " + " | ".join(["arm", *told, "seeds", *labels]) + " |"]
    lines.append("| --- |" + " --- |" * len(told) + " ---: |" * (1 + len(labels)))
    for arm, part in table.groupby("arm", observed=True):
        cells = [cell(part[label], plan["figures"][label]) for label in labels]
        lines.append("| " + " | ".join([str(arm), *(by[arm] for by in told.values()), str(len(part)), *cells]) + " |")
    made = differences(table, plan)
    scaled = {name: 100 * values if shares(plan, how) else values for name, (values, how) in made.items()}
    lines += ["", *markdown(scaled, plan.get("unit", "points"), scale=1.0, digits=plan.get("digits", 1)).splitlines()]
    for name, (values, how) in made.items():
        if "bound" in how:
            scale = 100 if shares(plan, how) else 1
            p = equivalent(values, how["bound"] / scale)
            said = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
            lines += ["", f"Equivalence of {name} within ± {how['bound']:g} {plan.get('unit', 'points')}: {said}"]
    return lines


def replaced(page: str, lines: list[str]) -> str:
    """The page with these tables, and their note, in place of those with the same header; the rest as it is."""
    blocks: dict[str, list[str]] = {}
    for line, above in zip(lines, ["", *lines], strict=False):
        if line and not (line.startswith("|") and above.startswith("|")):
            head = key = "Differences of the same seeds" if line.startswith("Differences of the same seeds") else line
            blocks[key] = []
        if line:
            blocks[head].append(line)
    kept, within = [], False
    for line in page.splitlines():
        within = within and line.startswith("|")
        key = next((key for key in blocks if line.startswith(key)), None)
        if key is not None:
            kept += blocks[key]
            within = line.startswith("|")
        elif not within:
            kept.append(line)
    return "\n".join(kept) + "\n"


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
        print("\n".join(tables(ordered(pd.read_json(out / "results.json"), plan), plan)))
        return
    table = ordered(figures(args.system, plan, args.folder), plan).round(5)  # so that results.json gives these tables
    (out / "results.json").write_text(
        json.dumps(json.loads(table.to_json(orient="records")), indent=1) + "\n", encoding="utf-8"
    )
    lines = tables(table, plan)
    print("\n".join(lines))
    for page in filter(Path.exists, (out / name for name in ("README.md", *plan.get("pages", ())))):
        page.write_text(replaced(page.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
