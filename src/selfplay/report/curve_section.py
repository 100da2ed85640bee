"""Learning curves, and the reward beside the truth: panels of lines with bands, one line a setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from selfplay.plots.figure_store import COLOURS, Album, Picture
from selfplay.plots.figures import Line, draw_lines
from selfplay.report.measures import Measure, important, number
from selfplay.report.questions import goodhart
from selfplay.report.statistics import curves
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

POINTS = 120  # of a curve; more steps than these are averaged in stretches
AXES = {"steps": ("step", "step"), "tokens": ("tokens", "generated tokens")}


@dataclass(frozen=True)
class Pair:
    """One metric, against steps and against generated tokens."""

    steps: Picture
    tokens: Picture


def considered(sweep: Sweep) -> pd.DataFrame:
    """The metrics of the finished runs; of a setting that has none, those of all of its runs."""
    runs = sweep.runs
    finished = set(runs.loc[runs["status"] == "finished", "setting"])
    kept = runs.loc[(runs["status"] == "finished") | ~runs["setting"].isin(finished), "run"]
    return sweep.metrics[sweep.metrics["run"].isin(set(kept))]


def stretches(metrics: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Metrics with at most `POINTS` rows a run, and of how many steps each of these is the mean; named by the last.

    Step 0, before training, stays by itself.
    """
    last = int(metrics["step"].max()) if len(metrics) else 0
    width = -(-last // POINTS)
    if width < 2:
        return metrics, 1
    place = -(-metrics["step"].astype(int) // width) * width
    keys = ["run", "setting", "seed"]
    means = metrics.drop(columns=["step", "tokens"]).groupby([*keys, place], sort=False, dropna=False).mean()
    means["tokens"] = metrics.groupby([*keys, place], sort=False, dropna=False)["tokens"].last()
    table = means.reset_index()
    return table[[*keys, "step", "tokens", *(c for c in table.columns if c not in (*keys, "step", "tokens"))]], width


def learning_curves(sweep: Sweep, settings: Settings, album: Album) -> tuple[list[Pair], str]:
    """A pair of panels for each important metric that was logged, and what holds for all of them."""
    metrics, width = stretches(considered(sweep))
    optimized = [str(name) for name in sweep.runs["metric"].dropna().unique()]
    logged = [c for c in metrics.columns[5:] if metrics[c].notna().any()]
    pairs, still = [], []
    for shown in important(logged, optimized):
        if shown.key not in optimized and metrics[shown.key].nunique() == 1:
            still.append(f"{shown.key} ({number(float(metrics[shown.key].max()), 3)})")
            continue
        steps, tokens = (_panel(metrics, shown, axis, settings, album) for axis in AXES)
        pairs.append(Pair(steps, tokens))
    note = "Mean over seeds; the band is its 95 % interval (Student's t; of shares on the logit scale, so that it ends "
    note += "within 0 and 100 %), absent where there is one seed or all seeds are alike. Bands are point by point. "
    note += "Runs that did not finish are left out, unless their setting has no other."
    note += f" Each point is the mean over {width} steps." if width > 1 else ""
    return pairs, note + (f" Always the same, so not drawn: {', '.join(still)}." if still else "")


def _panel(metrics: pd.DataFrame, shown: Measure, axis: str, settings: Settings, album: Album) -> Picture:
    column, label = AXES[axis]
    lines = setting_lines(curves(metrics, shown.key, column), settings, shown.factor)
    figure = draw_lines(lines, shown.title, label, shown.unit, shown.share)
    name = f"curve-{shown.key.replace('/', '-')}-{axis}"
    return album.keep(name, figure, shown.key, f"{shown.title} against {label}: {told(lines, shown.digits)}")


def setting_lines(table: pd.DataFrame, settings: Settings, factor: float = 1.0) -> dict[int, Line]:
    """A line a setting, by the setting's number."""
    lines = {}
    for setting, part in table.groupby("setting", sort=False):
        lines[settings.number(str(setting))] = line(settings.short(str(setting)), part, factor)
    return dict(sorted(lines.items()))


def line(label: str, table: pd.DataFrame, factor: float = 1.0) -> Line:
    """One setting's rows of `statistics.curves` as a line."""
    x, y, low, high = (table[name].to_numpy(dtype=float) for name in ("x", "mean", "low", "high"))
    return Line(label, x, factor * y, factor * low, factor * high)


def told(lines: dict[int, Line], digits: int) -> str:
    """The lines in words: where each begins and ends."""
    return "; ".join(
        f"{line.label or 'all runs'} from {number(float(line.y[0]), digits)} to {number(float(line.y[-1]), digits)}"
        for line in lines.values()
    )


GOODHART_NOTE = (
    "Both are told as their change since the first five steps, in units of how much single answers differed then; the "
    "gap is the change of the reward minus that of the truth. A gap that grows means that what is rewarded is less and "
    "less what is true."
)


def reward_against_truth(sweep: Sweep, settings: Settings, album: Album) -> list[Picture]:
    """The gap of all settings, then reward and truth of each; nothing where no truth was logged."""
    runs = set(considered(sweep)["run"])
    table = goodhart(sweep)
    table = table[table["run"].isin(runs) & table["gap"].notna()]
    if table.empty:
        return []
    columns = ["gap", "reward_change", "truth_change"]
    table, _ = stretches(table[["run", "setting", "seed", "step", "tokens", *columns]])
    gaps = setting_lines(curves(table, "gap"), settings)
    title = "Gap between reward and truth"
    figure = draw_lines(gaps, title, "step", "standard deviations")
    pictures = [
        album.keep("goodhart-gap", figure, "0: reward and truth have risen alike.", f"{title}: {told(gaps, 2)}")
    ]
    for setting in dict.fromkeys(table["setting"]):
        part = table[table["setting"] == setting]
        pictures.append(_two(part, settings, str(setting), album))
    return pictures


def _two(part: pd.DataFrame, settings: Settings, setting: str, album: Album) -> Picture:
    lines: dict[int, Line] = {}
    for i, name in (
        (0, "truth"),
        (len(COLOURS) + 1, "reward"),
    ):  # a second colour, and dashed: where both lie on one line
        lines[i] = line(name, curves(part, f"{name}_change"))
    title = settings.short(setting)
    figure = draw_lines(lines, title, "step", "change, standard deviations")
    caption = "Change of reward and truth since the first five steps."
    return album.keep(f"goodhart-{settings.number(setting)}", figure, caption, f"{title}: {told(lines, 2)}")
