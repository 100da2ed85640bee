"""The questions asked during training: kinds, difficulty, validity and diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from selfplay.plots.figure_store import COLOURS, GREY, Album, Picture, paired, pale
from selfplay.plots.figures import draw_shares
from selfplay.report.line_pictures import line_picture, setting_lines
from selfplay.report.questions import asked
from selfplay.report.statistics import curves
from selfplay.tasks.tiny_world import FAMILIES, LEVELS

if TYPE_CHECKING:
    from selfplay.report.settings import Settings

BINS = 10
NOTE = (
    "The Challenger's questions by interval of steps; for runs without a Challenger, the questions sampled from the "
    "data. Mean over seeds, with 95 % intervals (Student's t on the logit scale). Measures of diversity depend on the "
    "number of texts, so they use equally many questions of each interval."
)
LINES = {  # column -> title, unit, meaning
    "valid": ("Valid questions", "%", "Share of questions that have a right answer."),
    "unique": ("Unique questions", "%", "Share of distinct texts among all questions of an interval."),
    "distinct_1": ("Distinct-1", "share", "Distinct words as a share of all words."),
    "distinct_2": ("Distinct-2", "share", "Distinct bigrams as a share of all bigrams."),
    "self_bleu": ("Self-BLEU", "0 to 1", "Similarity of a question to the others; 1 for copies."),
}


def questions_of(turns: pd.DataFrame) -> pd.DataFrame:
    """Apply `selfplay.report.questions.asked` to the Challenger; to the data in runs whose questions come from it."""
    roles = turns.groupby("run", observed=True)["role"].agg(lambda some: set(some.unique()))
    with_challenger = {run for run, some in roles.items() if "challenger" in some}
    with_data = {run for run, some in roles.items() if {"chance", "solver"} <= some} - with_challenger
    parts = [asked(turns[turns["run"].isin(with_challenger)], BINS)] if with_challenger else []
    if with_data:
        from_data = asked(turns[turns["run"].isin(with_data)], BINS, role="chance")
        known = from_data.groupby("setting")["family/other"].transform("mean") < 1.0
        parts.append(from_data[known])
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def what_is_asked(turns: pd.DataFrame, settings: Settings, album: Album) -> tuple[list[Picture], list[Picture]]:
    """Curves with one line per setting; and figures of the kinds and difficulty of each setting's questions."""
    table = questions_of(turns)
    if table.empty:
        return [], []
    table["step"], table["tokens"] = (table["first"] + table["last"]) / 2, np.nan
    lines = [_lines(table, name, settings, album) for name in LINES if table[name].notna().any()]
    stacks = []
    for setting in dict.fromkeys(table["setting"]):
        part = table[table["setting"] == setting]
        if part["family/other"].mean() < 1.0:  # otherwise the questions are not of the tiny world
            stacks += [_stack(part, kind, str(setting), settings, album) for kind in ("family", "level")]
    return lines, stacks


def _lines(table: pd.DataFrame, name: str, settings: Settings, album: Album) -> Picture:
    title, unit, meaning = LINES[name]
    found = setting_lines(curves(table, name), settings, 100.0 if unit == "%" else 1.0, table, ("step", name))
    if name in ("distinct_1", "distinct_2", "self_bleu"):
        sampled = sorted({int(n) for n in table["sampled"]})
        span = f"{sampled[0]} to {sampled[-1]}" if len(sampled) > 1 else f"{sampled[0]}"
        meaning += f" Measured on {span} questions per interval."
    files = f"asked-{name.replace('_', '-')}"
    return line_picture(album, files, found, title, "step", unit, meaning, share=unit == "%")


def _stack(part: pd.DataFrame, kind: str, setting: str, settings: Settings, album: Album) -> Picture:
    columns = [c for c in part.columns if c.startswith(f"{kind}/") and part[c].max() > 0]
    means = part.groupby("step", sort=True)[columns].mean()
    names = {c: c.removeprefix(f"{kind}/") for c in columns}
    shares = {
        (f"level {n}" if kind == "level" and n != "other" else n): 100 * means[c].to_numpy(dtype=float)
        for c, n in names.items()
    }
    short, x = settings.short(setting), means.index.to_numpy(dtype=float)
    figure = draw_shares(x, shares, _colours(kind, columns), short, "step", f"questions by {kind}, %")
    what = "Families" if kind == "family" else "Levels of difficulty (the model was shown no right answer of level 4)"
    last = ", ".join(f"{name} {values[-1]:.0f} %" for name, values in shares.items())
    caption = (
        f"{what}{'; other: not a question of the tiny world' if 'other' in shares else ''}. Right: shares at the end."
    )
    number = settings.number(setting)
    alt = f"{what} in {short}, at the end: {last}"
    return album.keep(f"asked-{kind}-{number}", figure, caption, alt, number)


def _colours(kind: str, columns: Sequence[str]) -> list[str]:
    """Paired colours for families, shades from pale to full for levels, and grey for "other"."""
    if kind == "level":
        by_name = {f"level/{level}": pale(COLOURS[0], 0.75 - 0.25 * i) for i, level in enumerate(LEVELS)}
    else:
        by_name = dict(zip((f"family/{name}" for name in FAMILIES), paired(len(FAMILIES)), strict=True))
    return [by_name.get(column, GREY) for column in columns]
