"""The table of runs: how each ended, its result, and the values of the config keys that differ between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from selfplay.measures import measure, number
from selfplay.report.comparison import Cell, Row, Table
from selfplay.report.configs import TARGET, Config, differing
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

MOST, LONGEST = 10, 40  # columns of config keys, and characters of a value


def run_table(sweep: Sweep, known: Mapping[str, Config], settings: Settings) -> Table:
    """One row per run, whatever its status.

    Args:
        known: run -> its config.
    """
    runs = sweep.runs
    keys = differing(known, dict(zip(runs["run"], map(str, runs["seed"]), strict=True)))
    metrics = [str(name) for name in runs["metric"].dropna().unique()]
    one = measure(metrics[0]) if len(metrics) == 1 else None
    result = "optimized metric" if one is None else f"{one.words}{', %' if one.share else ''}"
    heads = [
        "run: setting",
        "status",
        "seed",
        "steps",
        "seconds",
        result,
        *(k.removesuffix(TARGET) for k in keys[:MOST]),
    ]
    rows = []
    for row in runs.to_dict("records"):
        written = known.get(str(row["run"]), {})
        cells = [
            str(row["status"]),
            _whole(row["seed"]),
            _whole(row["steps"]),
            number(float(row["seconds"]), 1),
            _result(row["optimized"], row["metric"], one is None),
            *(_cut(written.get(key, written.get(key.removesuffix(TARGET), "–"))) for key in keys[:MOST]),
        ]
        name = f"{row['run']}: {settings.short(str(row['setting']))}"
        rows.append(Row(name, settings.chip(str(row["setting"])), [Cell(cell) for cell in cells]))
    return Table("One row per run, with the config keys that differ between runs", heads, rows, _notes(keys))


def _notes(keys: list[str]) -> list[str]:
    notes = [
        "Keys are those of config.yaml; a class is told by its name; – means that the run has no such key. Options "
        "that only some of the classes have are left out where they do not vary, and so are values that equal the seed."
    ]
    if further := keys[MOST:]:
        notes.append(f"Further keys that differ: {', '.join(key.removesuffix(TARGET) for key in further)}.")
    return notes


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _whole(value: object) -> str:
    return "–" if pd.isna(value) else f"{value}"


def _result(value: float, metric: object, named: bool) -> str:
    if pd.isna(value) or not isinstance(metric, str):
        return "–"
    shown = measure(metric)
    text = number(shown.factor * value, shown.digits)
    return f"{text}{' %' if shown.share else ''} ({metric})" if named else text
