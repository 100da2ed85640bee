"""Learning curves, and reward against ground truth: panels with one line and band per setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from selfplay.measures import Measure, important, number
from selfplay.plots.figure_store import COLOURS, Album, Picture
from selfplay.report.line_pictures import line, line_picture, setting_lines
from selfplay.report.questions import goodhart
from selfplay.report.statistics import curves
from selfplay.runs.sweep import Sweep

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

POINTS = 120  # of a curve; longer runs are averaged over intervals of steps
AXES = {"steps": ("step", "step"), "tokens": ("tokens", "generated tokens")}


@dataclass(frozen=True)
class Pair:
    """Figures of one metric, against steps and against generated tokens."""

    steps: Picture
    tokens: Picture


def considered(sweep: Sweep) -> pd.DataFrame:
    """The metrics of the finished runs, and of all runs of settings without a finished one."""
    runs = sweep.runs
    finished = set(runs.loc[runs["status"] == "finished", "setting"])
    kept = runs.loc[(runs["status"] == "finished") | ~runs["setting"].isin(finished), "run"]
    return sweep.metrics[sweep.metrics["run"].isin(set(kept))]


def stretches(metrics: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Average metrics over intervals of steps, to at most `POINTS` rows per run; also return the interval's length.

    Each row is labelled with the last step of its interval. Step 0, before training, is not averaged.
    """
    last = int(metrics["step"].max()) if len(metrics) else 0
    width = -(-last // POINTS)
    if width < 2:
        return metrics, 1
    place = -(-metrics["step"].astype(int) // width) * width
    keys = ["run", "setting", "seed"]
    means = (
        metrics.drop(columns=["step", "tokens"]).groupby([*keys, place], sort=False, dropna=False).mean().copy()
    )  # in one block
    means["tokens"] = metrics.groupby([*keys, place], sort=False, dropna=False)["tokens"].last()
    table = means.reset_index()
    return table[[*keys, "step", "tokens", *(c for c in table.columns if c not in (*keys, "step", "tokens"))]], width


def learning_curves(sweep: Sweep, settings: Settings, album: Album) -> tuple[list[Pair], str]:
    """A pair of panels for each important metric that was logged, and a note on all of them."""
    metrics, width = stretches(considered(sweep))
    optimized = [str(name) for name in sweep.runs["metric"].dropna().unique()]
    logged = [c for c in metrics.columns[5:] if metrics[c].notna().any()]
    pairs, constant = [], []
    for shown in important(logged, optimized):
        if shown.key not in optimized and metrics[shown.key].nunique() == 1:
            constant.append(f"{shown.key} ({number(float(metrics[shown.key].max()), 3)})")
            continue
        steps, tokens = (_panel(metrics, shown, axis, settings, album) for axis in AXES)
        pairs.append(Pair(steps, tokens))
    note = (
        "Thick: mean over seeds; thin: single runs; the band is the pointwise 95 % interval of the mean (Student's t, "
    )
    note += "for shares on the logit scale), omitted where there is only one seed or all seeds are equal. "
    note += "Unfinished runs are left out, unless their setting has no finished one."
    note += f" Each point is the mean over {width} steps." if width > 1 else ""
    return pairs, note + (f" Constant, so not drawn: {', '.join(constant)}." if constant else "")


def _panel(metrics: pd.DataFrame, shown: Measure, axis: str, settings: Settings, album: Album) -> Picture:
    column, label = AXES[axis]
    table = curves(metrics, shown.key, column)
    lines = setting_lines(table, settings, shown.factor, metrics, (column, shown.key))
    name = f"curve-{shown.key.replace('/', '-')}-{axis}"
    return line_picture(album, name, lines, shown.title, label, shown.unit, shown.key, shown.digits, shown.share)


GOODHART_NOTE = (
    "Reward and truth are shown as changes since the first five steps, in standard deviations of single answers in "
    "those steps; the gap is the change of the reward minus that of the truth. A growing gap means that the reward "
    "measures truth less and less."
)


def reward_against_truth(sweep: Sweep, settings: Settings, album: Album) -> list[Picture]:
    """Figures of the gap in all settings, then of reward and truth in each; empty if no truth was logged."""
    runs = set(considered(sweep)["run"])
    table = goodhart(sweep)
    table = table[table["run"].isin(runs) & table["gap"].notna()]
    if table.empty:
        return []
    columns = ["gap", "reward_change", "truth_change"]
    table, _ = stretches(table[["run", "setting", "seed", "step", "tokens", *columns]])
    gaps = setting_lines(curves(table, "gap"), settings, 1.0, table, ("step", "gap"))
    title, caption = "Gap between reward and truth", "At 0, reward and truth have risen equally."
    pictures = [line_picture(album, "goodhart-gap", gaps, title, "step", "standard deviations", caption)]
    for setting in dict.fromkeys(table["setting"]):
        part = table[table["setting"] == setting]
        pictures.append(_two(part, settings, str(setting), album))
    return pictures


def _two(part: pd.DataFrame, settings: Settings, setting: str, album: Album) -> Picture:
    """Both lines have the setting's colour; the second is dashed, to be visible where they coincide."""
    index = settings.number(setting)
    names = {index: "truth", index + len(COLOURS): "reward"}
    lines = {i: line(name, curves(part, f"{name}_change")) for i, name in names.items()}
    title, y = settings.short(setting), "change, standard deviations"
    caption = "Change of reward and truth since the first five steps."
    return line_picture(album, f"goodhart-{index}", lines, title, "step", y, caption, setting=index)
