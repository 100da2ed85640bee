"""Small single-panel figures whose axes name the quantity and its unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from selfplay.plots.figure_store import COLOURS, DASHES, INK, STYLE
from selfplay.theory.zero_sum import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.3, 2.9  # inches: one column of the page
DIRECT_UP_TO, DIRECT_WIDTH = 4, 16  # most lines labelled at their ends, and the labels' width in characters
LEAST = 0.5  # per cent; smaller shares are not labelled


@dataclass(frozen=True)
class Line:
    """One line of a panel, with its band.

    Attributes:
        label: name of the line.
        x, y: [N] the points.
        low, high: [N] edges of the band; NaN where there is none.
        seeds: x and y of each single run, drawn thinly behind the mean.
    """

    label: str
    x: Array
    y: Array
    low: Array
    high: Array
    seeds: Sequence[tuple[Array, Array]] = ()


@contextmanager
def panel(title: str, x: str, y: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """Create a figure with one panel; what is drawn within the block has the project's style.

    Args:
        title: of the panel.
        x, y: labels of the axes.
        width, height: in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(wrapped(printable(title), 46))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
        axes.tick_params(length=3)
        yield figure, axes


def printable(text: str) -> str:
    """Replace unprintable characters, which XML may not contain."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def draw_lines(lines: Mapping[int, Line], title: str, x: str, y: str, share: bool = False) -> Figure:
    """Draw lines with bands.

    Args:
        lines: index of the line's colour and dashes -> line; a setting keeps its index in all panels.
        title: of the panel.
        x, y: labels of the axes.
        share: whether y is a percentage; if the data come near 0 or 100, the axis ends there.
    """
    with panel(title, x, y) as (figure, axes):
        for index, line in lines.items():
            marker = "o" if len(line.x) <= 12 else ""
            colour, gid = look(index)["color"], f"line-{index}"
            for seed, (at, values) in enumerate(line.seeds):
                axes.plot(at, values, color=colour, linewidth=0.7, alpha=0.45, gid=f"{gid}-seed{seed}")
            label = printable(line.label)
            axes.plot(line.x, line.y, marker=marker, markersize=3.5, label=label, gid=f"{gid}-mean", **look(index))
            if np.isfinite(line.low).any():
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0, gid=f"{gid}-band")
        if share:
            low, high = axes.get_ylim()
            high = 101 if high > 95 else max(high, 5)
            axes.set_ylim(-high / 50 if low < 5 else low, high)
        if max((float(line.x.max()) for line in lines.values() if len(line.x)), default=0) >= 10_000:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k" if value else "0")
        axes.locator_params(axis="x", integer=True, nbins=6)
        name_lines(figure, axes, lines)
        return figure


def name_lines(figure: Figure, axes: Axes, lines: Mapping[int, Line]) -> None:
    """Label the lines: at their ends if there are few, else in a legend below; a single line gets no label."""
    names = {i: wrapped(printable(line.label), DIRECT_WIDTH) for i, line in lines.items()}
    if len(lines) < 2:
        return
    if len(lines) > DIRECT_UP_TO or max(name.count("\n") for name in names.values()) > 1:
        columns = 2 if max(len(line.label) for line in lines.values()) <= 2 * DIRECT_WIDTH else 1
        style: dict[str, Any] = {"fontsize": 8, "handlelength": 1.8, "columnspacing": 1.2}
        legend = figure.legend(loc="outside lower left", ncols=columns, **style)
        for i, handle, text in zip(lines, legend.get_lines(), legend.get_texts(), strict=True):
            handle.set_gid(f"line-{i}-handle")
            text.set_gid(f"line-{i}-name")
        return
    ends = {i: float(line.y[np.isfinite(line.y)][-1]) for i, line in lines.items() if np.isfinite(line.y).any()}
    low, high = axes.get_ylim()
    step = (high - low) * 0.068  # the height of a line of text
    heights = {i: step * (names[i].count("\n") + 1.25) for i in ends}
    places = spread(ends, heights, low, high)
    across = axes.get_yaxis_transform()
    for i, place in places.items():  # in the colour of text, which has more contrast than that of some lines
        key: dict[str, Any] = {
            "transform": across,
            "clip_on": False,
            "scalex": False,
            "scaley": False,
            "gid": f"line-{i}-key",
        }
        axes.plot([1.02, 1.08], [place, place], **key, **look(i))
        text = axes.text(1.1, place, names[i], transform=across, fontsize=8.5, va="center", linespacing=1.05)
        text.set_gid(f"line-{i}-name")


def wrapped(text: str, width: int) -> str:
    """Wrap a text at spaces to lines of about `width` characters; words longer than two lines are cut."""
    out: list[str] = []
    for word in text.split(" "):
        word = word if len(word) <= 2 * width else word[: 2 * width - 1] + "…"
        if out and len(out[-1]) + 1 + len(word) <= width:
            out[-1] += " " + word
        else:
            out.append(word)
    return "\n".join(out)


def spread(wanted: Mapping[int, float], heights: Mapping[int, float], low: float, high: float) -> dict[int, float]:
    """Place labels near the wanted heights without overlap: first from the top down, then from the bottom up."""
    order = sorted(wanted, key=lambda i: -wanted[i])
    places: dict[int, float] = {}
    ceiling = high
    for i in order:
        places[i] = min(wanted[i], ceiling - heights[i] / 2)
        ceiling = places[i] - heights[i] / 2
    floor = low
    for i in reversed(order):
        places[i] = max(places[i], floor + heights[i] / 2)
        floor = places[i] + heights[i] / 2
    return places


def draw_shares(
    x: Array, shares: Mapping[str, Array], colours: Sequence[str], title: str, x_label: str, y: str
) -> Figure:
    """Draw stacked shares over time, in per cent; the last value of each is labelled at the right."""
    with panel(title, x_label, y, height=HEIGHT + 0.5) as (figure, axes):
        names, last = list(shares), [float(values[-1]) for values in shares.values()]
        axes.stackplot(x, list(shares.values()), colors=colours, edgecolor="white", linewidth=0.5)
        axes.set_ylim(0, 100)
        axes.set_xlim(float(x.min()), float(x.max()) if len(x) > 1 else float(x.min()) + 1)
        axes.grid(visible=False)
        axes.locator_params(axis="x", integer=True, nbins=6)
        tops = np.cumsum(last)
        middles = {i: float(tops[i]) - share / 2 for i, share in enumerate(last) if share >= LEAST}
        across = axes.get_yaxis_transform()
        for i, place in spread(middles, dict.fromkeys(middles, 6.2), 0.0, 100.0).items():
            text = f"{printable(names[i])} {last[i]:.0f} %"
            axes.text(1.07, place, text, transform=across, fontsize=8, va="center")
            ends = [middles[i], place]
            axes.plot([1.0, 1.05], ends, transform=across, color=colours[i], linewidth=2.2, clip_on=False)
        return figure


def draw_intervals(
    names: Sequence[str],
    estimates: Array,
    ticks: Sequence[Sequence[float]],
    colours: Sequence[str],
    title: str,
    x: str,
    indices: Sequence[int] | None = None,
) -> Figure:
    """Draw one row per name: mean, interval, and single measurements as small ticks; 0 is marked.

    Args:
        names: [n] labels of the rows.
        estimates: [n, 3] mean, low, high; low and high are NaN if there is no interval.
        ticks: [n] the single measurements of each row.
        colours: [n] of the rows.
        title: of the panel.
        x: label of the axis.
        indices: [n] of the rows' settings; None if the rows are not settings.
    """
    n, labels = len(names), [wrapped(printable(name), 26) for name in names]
    row = 0.38 + 0.14 * max(label.count("\n") for label in labels)
    with panel(title, x, "", height=0.9 + row * max(n, 2)) as (figure, axes):
        for i in range(n):
            colour, values = colours[i], np.asarray(ticks[i], dtype=float)
            name = "row" if indices is None else f"line-{indices[i]}"
            heights = np.full(len(values), i + 0.25)
            axes.plot(values, heights, "|", color=colour, markersize=6, alpha=0.8, gid=f"{name}-ticks{i}")
            _estimate(axes, i, estimates[i], colour, name)
        axes.set_yticks(range(n), labels)
        axes.set_ylim(n - 0.5, -0.5)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return figure


def _estimate(axes: Axes, height: float, estimate: Array, colour: str, name: str, size: float = 6.0) -> None:
    """Draw mean, low and high as a point and a bar."""
    middle, low, high = estimate
    if np.isfinite(low) and np.isfinite(high):
        ends = [low, high], [height, height]
        axes.plot(*ends, color=colour, linewidth=0.4 * size, solid_capstyle="butt", gid=f"{name}-bar{height}")
    axes.plot([middle], [height], "o", color=colour, markersize=size, gid=f"{name}-point{height}")


def draw_groups(names: Sequence[str], estimates: Mapping[int, Array], title: str, x: str) -> Figure:
    """Draw one row per name, and in it the mean and the interval of each setting.

    Args:
        names: [n] labels of the rows.
        estimates: index of a setting -> [n, 3] mean, low, high; low and high are NaN if there is no interval.
        title: of the panel.
        x: label of the axis.
    """
    n, k = len(names), len(estimates)
    with panel(title, x, "", height=0.9 + n * max(0.24, 0.09 * k + 0.08)) as (figure, axes):
        for place, (index, of_rows) in enumerate(estimates.items()):
            for i, estimate in enumerate(of_rows):
                height = i + 0.72 * ((place + 0.5) / k - 0.5)
                _estimate(axes, height, estimate, look(index)["color"], f"line-{index}", 3.5)
        axes.set_yticks(range(n), [wrapped(printable(name), 26) for name in names])
        axes.set_ylim(n - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
        axes.hlines(np.arange(n - 1) + 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=INK, alpha=0.1, lw=0.6)
        axes.tick_params(axis="y", length=0)
        return figure


def draw_matrix(names: Sequence[str], values: Array, title: str, unit: str) -> Figure:
    """Draw a payoff matrix: orange where the row earns less than 0 against the column, blue where it earns more.

    Args:
        names: [n] of rows and columns.
        values: [n, n] payoffs of the rows.
        title: of the panel.
        unit: label of the colour bar.
    """
    from matplotlib.colors import LinearSegmentedColormap

    n = len(names)
    cell = 0.5 if n <= 12 else max(0.16, 6.0 / n)
    labels = [name if len(name) <= 28 else f"…{name[-27:]}" for name in map(printable, names)]
    margin = 0.5 + 0.075 * max(map(len, labels))
    size = n * cell + margin
    with panel(title, "against", "", width=max(WIDTH, size + 1.2), height=size + 0.5) as (figure, axes):
        reach = float(np.nanmax(np.abs(values))) or 1.0
        scale = LinearSegmentedColormap.from_list("orange-blue", [COLOURS[1], "#f7f7f7", COLOURS[0]])
        image = axes.imshow(values, cmap=scale, vmin=-reach, vmax=reach)
        axes.grid(visible=False)
        axes.set_xticks(range(n), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(n), labels, fontsize=8)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, label=unit, shrink=0.8)
        bar.outline.set_visible(False)
        for i, j in np.ndindex(n, n) if n <= 12 else ():
            colour = "#ffffff" if abs(values[i, j]) > 0.7 * reach else "#000000"
            text = f"{round(float(values[i, j]), 2) + 0.0:.2f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour)
        return figure
