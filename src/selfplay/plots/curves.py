"""The plot of a run's metrics: six small panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfplay.plots.figure_store import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Sequence[dict[str, Any]]

BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#777777"
ROLES = {"solver": BLUE, "challenger": ORANGE}
OTHERS = (GREEN, PINK, SKY, GREY)
TIMES = {"time/play": SKY, "time/score": GREEN, "time/update": PINK}
SMOOTH_FROM = 40  # number of points from which a running mean is drawn over the raw line


def draw_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Plot the metrics of a run to a PNG at `path`; metrics that were not logged are left out."""
    from matplotlib.figure import Figure  # slow to import, and needed only once per run

    figure = Figure(figsize=(13.5, 7.6))  # without a layout engine, which would draw everything twice
    margins = {"left": 0.055, "right": 0.955, "top": 0.955, "bottom": 0.12, "wspace": 0.38, "hspace": 0.5}
    panels = list(figure.subplots(2, 3, gridspec_kw=margins).flat)
    _two_scales(panels[0], metrics, "reward and truth", "truth", "reward", _roles(metrics, "truth", "reward"))
    _accuracy(panels[1], metrics)
    _two_scales(panels[2], metrics, "challenger", "invalid", "payoff", ["challenger"])
    _by_role(panels[3], metrics, "KL from the reference", "kl")
    _by_role(panels[4], metrics, "entropy", "entropy")
    _times(panels[5], metrics)
    for axes in panels:
        _finish(axes)
    save_png(figure, path)


def _series(metrics: Metrics, key: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[key]) for line in metrics if isinstance(line.get(key), int | float)]
    return [step for step, _ in points], [float(value) for _, value in points]


def _roles(metrics: Metrics, *names: str) -> list[str]:
    found = {key.rpartition("/")[0] for line in metrics for key in line if key.rpartition("/")[2] in names}
    return sorted(found - {""}, key=lambda role: (role not in ROLES, role != "solver", role))


def _colour(role: str, roles: Sequence[str]) -> str:
    return ROLES.get(role) or OTHERS[roles.index(role) % len(OTHERS)]


def _line(axes: Axes, metrics: Metrics, key: str, colour: str, style: str = "-") -> bool:
    """Plot one metric; return whether it was logged."""
    steps, values = _series(metrics, key)
    if not steps:
        return False
    smooth = len(values) >= SMOOTH_FROM
    marker = "o" if len(values) == 1 else ""
    if smooth:
        axes.plot(steps, values, style, color=colour, alpha=0.25, linewidth=0.8)
        window = len(values) // 20
        values = [sum(values[max(0, i - window) : i + 1]) / (i + 1 - max(0, i - window)) for i in range(len(values))]
    axes.plot(steps, values, style, color=colour, linewidth=1.8, marker=marker, label=key)
    return True


def _two_scales(axes: Axes, metrics: Metrics, title: str, left: str, right: str, roles: Sequence[str]) -> None:
    """Plot shares from 0 to 1 on the left axis (solid), and an unbounded metric on the right axis (dashed)."""
    axes.set_title(title)
    on_left = [_line(axes, metrics, f"{role}/{left}", _colour(role, roles)) for role in roles]
    if any(on_left):
        axes.set_ylabel(left)
        axes.set_ylim(-0.02, 1.02)
    if not any(_series(metrics, f"{role}/{right}")[0] for role in roles):
        return
    other = axes.twinx() if any(on_left) else axes
    for role in roles:
        _line(other, metrics, f"{role}/{right}", _colour(role, roles), "--")
    other.set_ylabel(right)
    other.spines["top"].set_visible(False)
    if other is not axes:
        for line in other.get_lines():
            if not str(line.get_label()).startswith("_"):
                axes.plot([], [], "--", color=line.get_color(), label=line.get_label())


def _by_role(axes: Axes, metrics: Metrics, title: str, name: str) -> None:
    axes.set_title(title)
    roles = _roles(metrics, name)
    for role in roles:
        _line(axes, metrics, f"{role}/{name}", _colour(role, roles))


def _accuracy(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("held-out accuracy, % (bars: 95 %)")
    found = [(line["step"], line["eval"]) for line in metrics if isinstance(line.get("eval"), dict)]
    found = [(step, result) for step, result in found if "accuracy" in result]
    if not found:
        return
    middle = [100 * result["accuracy"] for _, result in found]
    bounds = [[100 * x for x in result.get("interval") or (math.nan, math.nan)] for _, result in found]
    below = [m - low for m, (low, _) in zip(middle, bounds, strict=True)]
    above = [high - m for m, (_, high) in zip(middle, bounds, strict=True)]
    steps = [step for step, _ in found]
    axes.errorbar(steps, middle, [below, above], fmt="o-", color=BLUE, ecolor=GREY, capsize=3, markersize=4)


def _times(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("seconds per step")
    timed = [line for line in metrics if any(isinstance(line.get(key), int | float) for key in TIMES)]
    keys = [key for key in TIMES if any(key in line for line in timed)]
    if not keys:
        return
    rows = [[float(line.get(key) or 0.0) for line in timed] for key in keys]
    bottom = [0.0] * len(timed)
    steps = [line["step"] for line in timed]
    for key, row in zip(keys, rows, strict=True):
        axes.bar(steps, row, 1.0, bottom, color=TIMES[key], label=key)
        bottom = [low + height for low, height in zip(bottom, row, strict=True)]


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.locator_params(axis="x", integer=True)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=8, frameon=False)
