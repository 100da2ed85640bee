"""Comparison of settings: means over seeds with intervals, and paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from selfplay.core import SelfplayError
from selfplay.measures import Measure, bounds, measure, number, probability
from selfplay.plots.figure_store import Album, Picture
from selfplay.plots.figures import draw_intervals
from selfplay.report.statistics import compare
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

TESTS = (
    "Intervals: 95 %, Student's t over seeds{logit}. Differences: paired with the baseline by seed. p: two-sided "
    "paired t-test. Holm: p corrected for {family}; if no difference is real, the chance of any value below 0.05 is at "
    "most 5 %. Sign flips: exact permutation test on the same pairs (at least 2 / 2ⁿ for n pairs), uncorrected."
)


@dataclass(frozen=True)
class Cell:
    """A value and its interval, as text."""

    value: str
    bounds: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: one setting."""

    setting: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """The comparison of settings by one metric."""

    caption: str
    heads: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None


def comparison(sweep: Sweep, settings: Settings, baseline: str | None, album: Album) -> list[Table]:
    """One table per metric that finished runs optimised.

    Args:
        baseline: full or short name of a setting; None for the first setting of each table.

    Raises:
        SelfplayError: the baseline is not a setting of these runs.
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
    """Convert the estimates to the displayed unit."""
    columns = ["mean", "low", "high", "difference", "difference/low", "difference/high"]
    return table.assign(**{name: factor * table[name] for name in columns})


def unbroken(text: str) -> str:
    """Replace spaces by non-breaking ones, so that the text stays on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cell(line: pd.Series, digits: int, signed: int) -> Cell:
    return Cell(number(line["mean"], digits, bool(signed)), bounds(line["low"], line["high"], digits, bool(signed)))


def _first(metrics: pd.DataFrame, key: str) -> dict[str, float]:
    """run -> the first logged value of a metric, for runs that logged more than one."""
    if key not in metrics:
        return {}
    logged = metrics[metrics[key].notna()]
    return {str(run): float(part[key].iloc[0]) for run, part in logged.groupby("run") if len(part) > 1}


def _notes(after: pd.DataFrame, shown: Measure, settings: Settings, wanted: str | None, against: str) -> list[str]:
    count = int(after["p"].notna().sum())
    family = f"the family of {count} comparisons of this table" if count > 1 else "a family of one comparison"
    logit = ", of shares on the logit scale" if shown.share else ""
    notes = [f"{TESTS.format(family=family, logit=logit)} Before: first logged value of a run; after: last one."]
    if shown.less_is_better:
        notes.append("Lower is better: a negative gain is an improvement.")
    if wanted not in (None, against):
        notes.append(f"No run of the chosen baseline optimised {shown.key}; the baseline here is the first setting.")
    for setting, note, left in zip(after["setting"], after["note"], after["left out"], strict=True):
        parts = [note] if note else []
        if left:
            parts.append(f"{left} run{'s' if left > 1 else ''} left out: unfinished, or without this metric")
        if parts:
            notes.append(f"{settings.short(setting)}: {'; '.join(parts)}.")
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
    values = "; ".join(
        f"{settings.short(n)} {number(m, shown.digits, True)}" for n, m in zip(names, gain["mean"], strict=True)
    )
    caption = "Point: mean over seeds. Bar: 95 % interval. Ticks: single seeds."
    return album.keep(f"gain-{shown.key.replace('/', '-')}", figure, caption, f"{what} by setting: {values}")
