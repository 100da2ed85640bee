"""The comparison of settings: means over seeds with intervals, and the paired difference to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from selfplay.core import SelfplayError
from selfplay.plots.figure_store import Album, Picture
from selfplay.plots.figures import draw_intervals
from selfplay.report.measures import Measure, bounds, measure, number, probability
from selfplay.report.statistics import compare
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

TESTS = (
    "Intervals: 95 %, Student's t over seeds{logit}. Differences: of the same seeds, paired with the baseline's. p: "
    "two-sided paired t-test; Holm: the same p, corrected for {family}: if none of them is real, one or more come out "
    "below 0.05 in at most 5 % of cases; sign flips: the exact permutation test on the same pairs (with n pairs never "
    "below 2 / 2ⁿ), not corrected."
)


@dataclass(frozen=True)
class Cell:
    """A figure and its interval, as text."""

    value: str
    bounds: str = ""


@dataclass(frozen=True)
class Row:
    """One setting of a table."""

    setting: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """The comparison by one metric."""

    caption: str
    heads: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None


def comparison(sweep: Sweep, settings: Settings, baseline: str | None, album: Album) -> list[Table]:
    """One table a metric that finished runs have optimised.

    Raises:
        SelfplayError: the baseline is no setting of these runs.
    """
    chosen = None if baseline is None else settings.full(baseline)
    known = list(dict.fromkeys(sweep.runs["setting"]))
    if baseline is not None and chosen not in known:
        raise SelfplayError(
            f"--baseline is '{baseline}', but no run has this setting; choose one of: {'; '.join(known)}"
        )
    finished = sweep.runs[(sweep.runs["status"] == "finished") & sweep.runs["optimized"].notna()]
    return [
        _table(sweep, rows, measure(str(name)), settings, chosen, album)
        for name, rows in finished.groupby("metric", sort=False)
    ]


def _table(
    sweep: Sweep, finished: pd.DataFrame, shown: Measure, settings: Settings, baseline: str | None, album: Album
) -> Table:
    here = list(dict.fromkeys(finished["setting"]))
    against = baseline if baseline is not None and baseline in here else str(here[0])
    runs = sweep.runs[sweep.runs["setting"].isin(here)].copy()
    runs["before"] = runs["run"].map(_first(sweep.metrics, shown.key))
    runs.loc[(runs["metric"] != shown.key), "optimized"] = np.nan
    runs["gain"] = runs["optimized"] - runs["before"]
    before, after, gain = (
        _scaled(compare(runs, name, against, shown.share and name != "gain"), shown.factor)
        for name in ("before", "optimized", "gain")
    )
    runs["gain"] *= shown.factor
    unit = f", {shown.unit}" if shown.unit not in shown.words else ""
    points = ", points" if shown.share else ""
    heads = [
        "setting",
        "seeds",
        *(unbroken(f"{name}{unit}") for name in ("before", "after")),
        unbroken(f"gain{points}"),
    ]
    heads += [f"difference to the {unbroken(f'baseline{points}')}"]
    heads += map(unbroken, ["p, paired t", "p, Holm", "p, sign flips"])
    rows = []
    for i, setting in enumerate(after["setting"]):
        name = settings.short(setting) + (" (baseline)" if setting == against and len(here) > 1 else "")
        cells = [
            Cell(str(after["n"][i])),
            *(_cell(t.iloc[i], shown.digits, s) for t, s in ((before, 0), (after, 0), (gain, 1))),
        ]
        line = after.iloc[i]
        d = shown.digits
        cells.append(
            Cell(number(line["difference"], d, True), bounds(line["difference/low"], line["difference/high"], d, True))
        )
        cells += [Cell(probability(line[p])) for p in ("p", "p/holm", "p/exact")]
        rows.append(Row(name, settings.chip(setting), cells))
    return Table(
        f"{shown.title} ({shown.key}): mean over seeds [95 % interval]",
        heads,
        rows,
        _notes(after, shown, settings, baseline, against),
        _picture(gain, runs, shown, settings, album),
    )


def _scaled(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The estimates in the unit that is shown."""
    columns = ["mean", "low", "high", "difference", "difference/low", "difference/high"]
    return table.assign(**{name: factor * table[name] for name in columns})


def unbroken(text: str) -> str:
    """A text that stays on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cell(line: pd.Series, digits: int, signed: int) -> Cell:
    return Cell(number(line["mean"], digits, bool(signed)), bounds(line["low"], line["high"], digits, bool(signed)))


def _first(metrics: pd.DataFrame, key: str) -> dict[str, float]:
    """run -> what it logged first of a metric, where that was not also the last."""
    if key not in metrics:
        return {}
    logged = metrics[metrics[key].notna()]
    return {str(run): float(part[key].iloc[0]) for run, part in logged.groupby("run") if len(part) > 1}


def _notes(after: pd.DataFrame, shown: Measure, settings: Settings, wanted: str | None, against: str) -> list[str]:
    count = int(after["p"].notna().sum())
    family = f"the family of {count} comparisons of this table" if count > 1 else "a family of one comparison"
    logit = ", of shares on the logit scale" if shown.share else ""
    notes = [f"{TESTS.format(family=family, logit=logit)} Before: the first value that a run logged, after: the last."]
    if shown.less_is_better:
        notes.append("Of this figure less is better: a negative gain is an improvement.")
    if wanted not in (None, against):
        notes.append(f"No run of the chosen baseline optimised {shown.key}; the baseline here is the first setting.")
    for setting, note, left in zip(after["setting"], after["note"], after["left out"], strict=True):
        said = [note] if note else []
        if left:
            said.append(f"{left} run{'s' if left > 1 else ''} left out, unfinished or without the figure")
        if said:
            notes.append(f"{settings.short(setting)}: {'; '.join(said)}.")
    return notes


def _picture(
    gain: pd.DataFrame, runs: pd.DataFrame, shown: Measure, settings: Settings, album: Album
) -> Picture | None:
    if not gain["mean"].notna().any():
        return None
    names = [str(setting) for setting in gain["setting"]]
    done = runs[runs["status"] == "finished"]
    dots: list[Sequence[float]] = [done.loc[done["setting"] == n, "gain"].dropna().tolist() for n in names]
    what = f"gain in {shown.words}"
    figure = draw_intervals(
        [settings.short(name) for name in names],
        gain[["mean", "low", "high"]].to_numpy(dtype=float),
        dots,
        [settings.colour(name) for name in names],
        what[0].upper() + what[1:],
        "percentage points" if shown.share else shown.unit,
    )
    told = "; ".join(
        f"{settings.short(n)} {number(m, shown.digits, True)}" for n, m in zip(names, gain["mean"], strict=True)
    )
    caption = "Point: mean over seeds. Bar: 95 % interval. Ticks: single seeds."
    return album.keep(f"gain-{shown.key.replace('/', '-')}", figure, caption, f"{what} by setting: {told}")
