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
from selfplay.report.configs import against_itself
from selfplay.report.statistics import compare
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

TESTS = (
    "Intervals: 95 %, Student's t over seeds{logit}. Differences: paired with the baseline by seed. p: two-sided "
    "paired t-test. Holm: p corrected for {family}; if no difference is real, the chance of any value below 0.05 is at "
    "most 5 %. Sign flips: exact permutation test on the same pairs (at least 2 / 2ⁿ for n pairs), uncorrected."
)
ITSELF = (
    "The settings are not compared: both sides of this zero-sum game are the same model, so what one role earns the "
    "other loses, however well they play; compare the trained models with selfplay crossplay FOLDER --last."
)


@dataclass(frozen=True)
class Cell:
    """A value and its interval, as text."""

    value: str
    bounds: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, the colour of its setting ("" for none), its cells."""

    setting: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table of the page, such as the comparison of settings by one metric."""

    caption: str
    heads: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    picture: Picture | None = None


@dataclass(frozen=True)
class Compared:
    """The settings compared with one of them by one metric, in its displayed unit.

    Attributes:
        metric: how it is displayed.
        baseline: the setting that the others are compared with; "" if the metric is the payoff of a zero-sum game of
            the learner against itself, which is not compared.
        runs: the runs of these settings, with the columns `before` and `gain`.
        before, after, gain: of the metric, as of `statistics.compare`.
    """

    metric: Measure
    baseline: str
    runs: pd.DataFrame
    before: pd.DataFrame
    after: pd.DataFrame
    gain: pd.DataFrame


def checked_baseline(sweep: Sweep, settings: Settings, baseline: str | None) -> str | None:
    """The baseline's full name.

    Args:
        baseline: full or short name of a setting; None for none.

    Raises:
        SelfplayError: the baseline is not a setting of these runs.
    """
    chosen = None if baseline is None else settings.full(baseline)
    known = list(dict.fromkeys(sweep.runs["setting"]))
    if baseline is not None and chosen not in known:
        raise SelfplayError(
            f"--baseline is '{baseline}', but no run has this setting; choose one of: {'; '.join(known)}"
        )
    return chosen


def compared(sweep: Sweep, baseline: str | None) -> list[Compared]:
    """The comparisons by each metric that finished runs optimised.

    Args:
        baseline: a setting; None, or one without this metric, for the first setting that has it.
    """
    finished = sweep.runs[(sweep.runs["status"] == "finished") & sweep.runs["optimized"].notna()]
    return [
        _compared(sweep, list(dict.fromkeys(rows["setting"])), measure(str(name)), baseline)
        for name, rows in finished.groupby("metric", sort=False)
    ]


def _compared(sweep: Sweep, here: list[str], shown: Measure, baseline: str | None) -> Compared:
    against = baseline if baseline is not None and baseline in here else str(here[0])
    runs = sweep.runs[sweep.runs["setting"].isin(here)].copy()
    runs["before"] = runs["run"].map(_first(sweep.metrics, shown.key))
    runs.loc[(runs["metric"] != shown.key), "optimized"] = np.nan
    runs["gain"] = runs["optimized"] - runs["before"]
    if any(against_itself(sweep.configs.get(str(run), {})) for run in runs["run"]):
        against = ""
    before, after, gain = (
        _scaled(compare(runs, name, against or None, shown.share and name != "gain"), shown.factor)
        for name in ("before", "optimized", "gain")
    )
    runs["gain"] *= shown.factor
    return Compared(shown, against, runs, before, after, gain)


def comparison(found: Compared, settings: Settings, baseline: str | None, album: Album) -> Table:
    """The table of a comparison.

    Args:
        baseline: the setting that was asked for.
    """
    shown, against, before, after, gain = found.metric, found.baseline, found.before, found.after, found.gain
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
        name = settings.short(setting) + (" (baseline)" if setting == against and len(after) > 1 else "")
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
        _picture(gain, found.runs, shown, settings, album) if against else None,
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
    notes = [] if against else [ITSELF]
    notes.append(f"{TESTS.format(family=family, logit=logit)} Before: first logged value of a run; after: last one.")
    if shown.less_is_better:
        notes.append("Lower is better: a negative gain is an improvement.")
    if against and wanted not in (None, against):
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
        [settings.number(name) for name in names],
    )
    values = "; ".join(
        f"{settings.short(n)} {number(m, shown.digits, True)}" for n, m in zip(names, gain["mean"], strict=True)
    )
    caption = "Point: mean over seeds. Bar: 95 % interval. Ticks: single seeds."
    return album.keep(f"gain-{shown.key.replace('/', '-')}", figure, caption, f"{what} by setting: {values}")
