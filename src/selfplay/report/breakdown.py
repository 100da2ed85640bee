"""Accuracy by the labels of the held-out questions, such as their family and level, in every setting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from selfplay.measures import bounds, number
from selfplay.plots.figure_store import Album, Picture
from selfplay.plots.figures import draw_groups
from selfplay.report.comparison import Cell, Row, Table
from selfplay.report.statistics import compare
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

COLUMN = re.compile(r"eval/after/intervals/([^/]+)/(.+)/low")
NOTE = (
    "Accuracy in the last evaluation: mean over the seeds of finished runs, with 95 % intervals (Student's t on the "
    "logit scale, so that they stay within 0 and 100 %). A kind has few questions; intervals are not corrected for the "
    "number of kinds."
)


@dataclass(frozen=True)
class Breakdown:
    """The accuracy by one label."""

    title: str
    picture: Picture
    table: Table


def breakdown(sweep: Sweep, settings: Settings, album: Album) -> list[Breakdown]:
    """A figure and a table for each label with several values; empty if no run was evaluated on labelled questions."""
    runs = sweep.runs
    if "eval/after/accuracy" not in runs:
        return []
    labels: dict[str, list[str]] = {}
    for label, value in (match.groups() for match in map(COLUMN.fullmatch, runs.columns) if match):
        if f"eval/after/{label}/{value}" in runs:
            labels.setdefault(label, []).append(value)
    done = runs[(runs["status"] == "finished") & runs["eval/after/accuracy"].notna()]
    return [_by(label, values, done, settings, album) for label, values in labels.items() if len(values) > 1]


def _by(label: str, values: list[str], runs: pd.DataFrame, settings: Settings, album: Album) -> Breakdown:
    found = {value: compare(runs, f"eval/after/{label}/{value}", share=True) for value in values}
    here = list(next(iter(found.values()))["setting"])
    names = [value if not value.isdigit() else f"{label.removesuffix('s')} {value}" for value in values]
    columns = ["mean", "low", "high"]
    estimates = {
        settings.number(setting): 100.0 * np.array([found[v][columns].iloc[i].to_numpy(dtype=float) for v in values])
        for i, setting in enumerate(here)
    }
    title = f"Accuracy by {label}"
    cells = {
        number_of: [Cell(number(mean, 1), bounds(low, high, 1)) for mean, low, high in table]
        for number_of, table in estimates.items()
    }
    rows = [Row(name, "", [column[i] for column in cells.values()]) for i, name in enumerate(names)]
    overall = compare(runs, "eval/after/accuracy", share=True)
    means = "; ".join(f"{settings.short(s)} {number(100 * m, 1)}" for s, m in zip(here, overall["mean"], strict=True))
    picture = album.keep(
        f"accuracy-{label}", draw_groups(names, estimates, title, "%"), "Point: mean over seeds. Bar: 95 % interval.",
        f"{title}; over all of them: {means}",
    )  # fmt: skip
    heads = [label, *(settings.short(setting) for setting in here)]
    return Breakdown(title, picture, Table(f"{title}, % [95 % interval]", heads, rows))
