"""Panels with one line and band per setting, their words, and the values under the pointer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from selfplay.measures import number
from selfplay.plots.figure_store import Album, Picture
from selfplay.plots.figures import Line, draw_lines
from selfplay.theory.zero_sum import Array

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

DIGITS = 4  # significant digits of the values under the pointer


def setting_lines(
    table: pd.DataFrame,
    settings: Settings,
    factor: float = 1.0,
    runs: pd.DataFrame | None = None,
    columns: tuple[str, str] = ("step", ""),
) -> dict[int, Line]:
    """One line per setting, keyed by the setting's number.

    Args:
        table: as of `statistics.curves`.
        factor: from the table's values to the displayed ones.
        runs: the rows that `table` was made of, to draw every run behind the mean; None for no such lines.
        columns: of `runs`: x and y.
    """
    lines = {}
    for setting, part in table.groupby("setting", sort=False):
        mean = line(settings.short(str(setting)), part, factor)
        if runs is not None:
            single = _runs_of(runs[runs["setting"] == setting], columns)
            mean = replace(mean, seeds=[(x, factor * y) for x, y in single] if len(single) > 1 else ())
        lines[settings.number(str(setting))] = mean
    return dict(sorted(lines.items()))


def _runs_of(rows: pd.DataFrame, columns: tuple[str, str]) -> list[Array]:
    """The points of each run that has any: x and y, [2, points]."""
    points = np.stack([rows[name].to_numpy(dtype=float, na_value=np.nan) for name in columns])
    codes, _ = pd.factorize(rows["run"])
    known = ~np.isnan(points).any(axis=0)
    return [points[:, known & (codes == code)] for code in pd.unique(codes[known])]


def line(label: str, table: pd.DataFrame, factor: float = 1.0) -> Line:
    """Convert one setting's rows of `statistics.curves` to a line."""
    x, y, low, high = (table[name].to_numpy(dtype=float) for name in ("x", "mean", "low", "high"))
    return Line(label, x, factor * y, factor * low, factor * high)


def describe(lines: dict[int, Line], digits: int) -> str:
    """Describe the lines in words: the first and last value of each."""
    return "; ".join(
        f"{line.label or 'all runs'} from {number(float(line.y[0]), digits)} to {number(float(line.y[-1]), digits)}"
        for line in lines.values()
    )


def line_picture(
    album: Album,
    name: str,
    lines: dict[int, Line],
    title: str,
    x: str,
    y: str,
    caption: str,
    digits: int = 2,
    share: bool = False,
    setting: int | None = None,
) -> Picture:
    """Draw lines and store the figure.

    Args:
        album: stores it.
        name: of its files.
        lines, title, x, y, share: see `draw_lines`.
        caption: of the figure.
        digits: of the values in the alternative text.
        setting: see `Picture`.
    """
    figure = draw_lines(lines, title, x, y, share)
    alt = f"{title} against {x}: {describe(lines, digits)}"
    return album.keep(name, figure, caption, alt, setting, [_points(i, line) for i, line in lines.items()])


def _points(index: int, line: Line) -> dict[str, Any]:
    """The values of a line, rounded; without a band its edges are left out."""
    band = {"low": line.low, "high": line.high}
    found: dict[str, Any] = {"line": index, "name": line.label, "x": line.x, "y": line.y}
    found |= {name: values for name, values in band.items() if any(map(math.isfinite, values))}
    return {k: [_short(float(v)) for v in values] if k in ("x", "y", *band) else values for k, values in found.items()}


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}") if abs(value) < 10**DIGITS else round(value)
    return int(short) if float(short).is_integer() else short
