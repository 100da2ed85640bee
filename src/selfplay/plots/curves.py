"""The curves of one run. The panels are chosen from the metrics that were logged, never from the game's name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from selfplay.errors import SelfplayError
from selfplay.measures import Measure, evaluated, measure, numbers
from selfplay.plots.figure_store import COLOURS, DASHES, INK, STYLE, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 9.0  # size of all text
PANEL_WIDTH, PANEL_HEIGHT, NARROWEST = 2.2, 1.75, 3.0  # inches: of a panel, and of the figure
TITLE_WIDTH = 10.5  # characters per inch
SMOOTH_FROM, BARS = 40, 100  # points from which a running mean is drawn, and most bars
ROLES = ("solver", "challenger")  # come first, so that they have the same colours in games with and without the other
BY_ROLE = ("payoff", "reward", "truth", "invalid")
SILENT = "frac_reward_zero_std"
LEARNING = ("kl", "entropy")
BESIDE = {  # what is drawn with an evaluation's main figure: its name, the label of the main figure, its own label
    "accuracy": [("few_shot", "without examples", "behind examples"), ("mean_accuracy", "majority", "single answers")],
    "nash_conv": [("mixture_nash_conv", "learner", "mixture")],
    "return": [("own_return", "learner", "the other player"), ("best_return", "learner", "best response")],
}
TIMES = {  # parts of a step, with their labels and greys, which no role has
    "time/play": ("play", "#e3e5e8"),
    "time/score": ("score", "#bcc1c7"),
    "time/update": ("update", "#8b929a"),
    "time/eval": ("evaluate", "#5b626b"),
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes:
        key: the flat name of the metric.
        label: its name in the panel's own legend; "" for a role, which the figure's legend names.
        look: colour and dashes.
        x, y: steps and values.
        low, high: edges of the band, NaN where there is none; empty without a band.
    """

    key: str
    label: str
    look: Mapping[str, Any]
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One panel; `measure` gives its title, its unit, and whether values are shares from 0 to 1."""

    measure: Measure
    curves: list[Curve]

    @property
    def title(self) -> str:
        return self.measure.title + (f", {self.measure.unit}" if self.measure.unit not in self.measure.words else "")


def draw_curves(
    metrics: Sequence[Mapping[str, Any]], path: Path, primary: str = "", width: float = 6.8, most: int | None = None
) -> None:
    """Write the curves of a run as png, pdf or svg, by the suffix of `path`. Arguments and errors: see `run_figure`.

    Raises:
        DiskError: the file cannot be written; an earlier one is kept.
    """
    save(run_figure(metrics, primary, width, most), path)


def run_figure(
    metrics: Sequence[Mapping[str, Any]], primary: str = "", width: float = 6.8, most: int | None = None
) -> Figure:
    """The curves of a run, with text of 9 points.

    A role has one colour in all panels, black is what belongs to no role, and greys are times. The bands are the
    intervals that the evaluation recorded. From 40 points on, single steps are pale under their running mean.

    Args:
        metrics: the lines of metrics.jsonl.
        primary: the metric of the first panel, such as "eval/accuracy"; by default the evaluation's main figure.
        width: in inches: 6.8 for the two columns of a paper, 3.3 for one.
        most: draw only this many panels, the first ones.

    Raises:
        SelfplayError: no metric was logged, or the width is not supported.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # slow to import, and needed only once per run

    rows = [numbers(line) for line in metrics]
    shown: list[Panel | None] = [*panels(rows, primary)]
    shown += [None] if any(name in row for row in rows for name in TIMES) else []
    shown = shown[:most]
    if not shown:
        raise SelfplayError("no metric was logged yet, so there is nothing to draw")
    if not NARROWEST <= width <= 100:
        raise SelfplayError(f"the width is {width:g} inches; use {NARROWEST:g} to 100, such as 3.3 or 6.8")
    columns = min(len(shown), int(width / PANEL_WIDTH))
    lines = -(-len(shown) // columns)
    with mpl.rc_context(STYLE | {"font.size": POINTS}):
        figure = Figure(figsize=(width, PANEL_HEIGHT * lines + 0.4), layout="constrained")
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, panel in zip(grid, shown, strict=False):
            if panel is None:
                _times(axes, rows)
            else:
                _draw(axes, panel)
            _finish(axes, panel.title if panel else "Time per step, s", width / columns)
        for axes in grid[len(shown) :]:
            axes.remove()
        for axes in grid[max(0, len(shown) - columns) : len(shown)]:
            axes.set_xlabel("step", labelpad=2)
        _legend(figure, shown, roles(rows), columns)
        return figure


def panels(rows: Sequence[Mapping[str, float]], primary: str = "") -> list[Panel]:
    """The panels of line plots: the primary metric first, then other evaluations, then what was logged of the roles.

    Args:
        rows: the flat numbers of each line, see `measures.numbers`.
        primary: see `draw_curves`.
    """
    known = list(dict.fromkeys(key for row in rows for key in row))
    found: list[Panel] = []
    for key in dict.fromkeys([*[primary] * (primary in known), *evaluated(known)]):
        role, _, name = key.rpartition("/")
        by_role = role in roles(rows)
        found.append(_by_role(rows, name) if by_role else _evaluation(rows, key))
    drawn = {curve.key for panel in found for curve in panel.curves}
    learning = LEARNING if any(_by_role(rows, name).curves for name in LEARNING) else ("loss",)
    for name in (*BY_ROLE, SILENT, *learning):
        panel = _evaluation(rows, name) if name in (SILENT, "loss") else _by_role(rows, name)
        fresh = [curve for curve in panel.curves if curve.key not in drawn]
        paid = {curve.key.rpartition("/")[0]: curve.y for curve in _by_role(rows, "payoff").curves}
        same = name == "reward" and all(paid.get(curve.key.rpartition("/")[0]) == curve.y for curve in fresh)
        if fresh and not same:
            found.append(panel)
    return [panel for panel in found if panel.curves]


def roles(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The roles with a payoff or a KL, in the order of their colours."""
    keys = dict.fromkeys(key.rpartition("/") for row in rows for key in row)
    found = dict.fromkeys(role for role, _, name in keys if role and "/" not in role and name in ("payoff", "kl"))
    return sorted(found, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))


def _by_role(rows: Sequence[Mapping[str, float]], name: str) -> Panel:
    every = roles(rows)
    curves = [_curve(rows, f"{role}/{name}", "", _look(i)) for i, role in enumerate(every)]
    return Panel(measure(name), [curve for curve in curves if curve.x])


def _evaluation(rows: Sequence[Mapping[str, float]], key: str) -> Panel:
    """A metric of no role, with its interval, and what belongs beside it."""
    within, _, name = key.rpartition("/")
    found = [(f"{within}/{other}", main, label) for other, main, label in BESIDE.get(name, ())]
    beside = [entry for entry in found if any(entry[0] in row for row in rows)]
    curves = [_curve(rows, key, beside[0][1] if beside else "", {"color": INK})]
    for (other, _, label), dash in zip(beside, DASHES[1:], strict=False):
        curves.append(_curve(rows, other, label, {"color": INK, "linestyle": dash}))
    shown = measure(key)
    if within not in ("", "eval"):
        shown = Measure(key, f"{within.removeprefix('eval/')}: {measure(name).words}", shown.unit, shown.factor)
    return Panel(shown, [curve for curve in curves if curve.x])


def _look(index: int) -> dict[str, Any]:
    coloured = COLOURS[:-1]  # the last one is a grey
    return {"color": coloured[index % len(coloured)], "linestyle": DASHES[index // len(coloured) % len(DASHES)]}


def _curve(rows: Sequence[Mapping[str, float]], key: str, label: str, look: Mapping[str, Any]) -> Curve:
    """The points of a metric with its band: `<key>_interval`, or `interval` beside an evaluation's main figure."""
    points = [row for row in rows if key in row]
    within = key.rpartition("/")[0]
    own = f"{key}_interval" if any(f"{key}_interval/low" in row for row in points) else f"{within}/interval"
    banded = own != f"{within}/interval" or key in evaluated(points[-1] if points else ())
    low, high = ([row.get(f"{own}/{end}", math.nan) for row in points] for end in ("low", "high"))
    if not banded or all(map(math.isnan, low)):
        low, high = [], []
    elif measure(key).share:
        low, high = ([min(max(value, 0.0), 1.0) for value in ends] for ends in (low, high))
    return Curve(key, label, look, [row["step"] for row in points], [row[key] for row in points], low, high)


def _draw(axes: Axes, panel: Panel) -> None:
    factor = panel.measure.factor
    for curve in panel.curves:
        x, y = curve.x, [factor * value for value in curve.y]
        if curve.low:
            low, high = ([factor * value for value in ends] for ends in (curve.low, curve.high))
            axes.fill_between(x, low, high, color=curve.look["color"], alpha=0.16, linewidth=0)
            if len(x) == 1:
                axes.vlines(x, low, high, color=curve.look["color"], alpha=0.4)
        if len(y) >= SMOOTH_FROM:
            axes.plot(x, y, **curve.look, alpha=0.25, linewidth=0.7)
            y = _running_mean(y)
        marker = "o" if len(y) <= 12 else ""
        axes.plot(x, y, **curve.look, linewidth=1.4, marker=marker, markersize=3, label=curve.label or None)
    if panel.measure.share:
        bottom, top = axes.get_ylim()
        top = 102 if top > 95 else max(top, 5)
        axes.set_ylim(-top / 50 if bottom < 5 else bottom, top)
    if any(curve.label for curve in panel.curves):
        axes.legend(loc="best", handlelength=1.6, borderaxespad=0.2, labelspacing=0.2)


def _window(count: int) -> int:
    return count // 20 + 1


def _running_mean(y: Sequence[float]) -> list[float]:
    width = _window(len(y))
    parts = [y[max(0, i + 1 - width) : i + 1] for i in range(len(y))]
    return [sum(part) / len(part) for part in parts]


def _times(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """Stacked bars, each the mean over as many steps as it is wide."""
    timed = [row for row in rows if any(part in row for part in TIMES)]
    width = -(-len(timed) // BARS)
    groups = [timed[i : i + width] for i in range(0, len(timed), width)]
    edges = [groups[0][0]["step"] - 0.5, *(group[-1]["step"] + 0.5 for group in groups)]
    bottom = [0.0] * len(groups)
    for part, (_, colour) in TIMES.items():
        means = [sum(row.get(part, 0.0) for row in group) / len(group) for group in groups]
        top = [low + mean for low, mean in zip(bottom, means, strict=True)]
        axes.stairs(top, edges, baseline=bottom, fill=True, color=colour)
        bottom = top


def _finish(axes: Axes, title: str, width: float) -> None:
    axes.set_title(fill(title, round(TITLE_WIDTH * width)), fontsize=POINTS, loc="left", pad=4, fontweight="bold")
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.tick_params(length=2.5, pad=2)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)


def _legend(figure: Figure, shown: Sequence[Panel | None], every: Sequence[str], columns: int) -> None:
    """The colours of the roles and of the parts of a step, once for all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    curves = [curve for panel in shown if panel for curve in panel.curves]
    drawn, longest = {curve.key.rpartition("/")[0] for curve in curves}, max((len(c.x) for c in curves), default=0)
    handles: list[Any] = [Line2D([], [], **_look(i), label=role) for i, role in enumerate(every) if role in drawn]
    handles += [Patch(color=colour, label=part) for part, colour in TIMES.values()] if None in shown else []
    note = f"pale: every step; bold: mean over {_window(longest)} steps" if longest >= SMOOTH_FROM else None
    layout: dict[str, Any] = {"loc": "outside lower center", "ncols": 2 * columns}
    if handles or note:
        figure.legend(handles=handles, title=note, handlelength=1.4, columnspacing=1.2, **layout)
