"""A deterministic sample of the transcripts that fits into a page, with steps spread over every run.

The sample is stored as JSON columns; each distinct text is written once and referred to by number. No text can break
out of the script element.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

BUDGET = 4_500_000  # bytes of JSON, shared by the runs
LONGEST = 4_000  # characters of a text; the rest is cut
DIGITS = 4  # significant digits of a score
PLACED = ("run", "step", "episode", "role", "player", "group", "prompt", "reply")
PLACES = 30  # approximate bytes per turn of the columns in PLACED
FIRST = ("reward", "quality", "truth")  # scores that come first


@dataclass
class Sample:
    """The data of the page's transcript browser.

    Attributes:
        columns: name -> one value per turn; texts, roles, players, groups and runs are indices into `texts` and `runs`.
        scores: names of the scores.
        texts: every distinct text.
        runs: name, setting and seed of every run in the sample.
        shown, whole: number of turns in the sample, and in total.
        kept: run -> number of turns in the sample, number in total, steps in the sample.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    shown: int = 0
    whole: int = 0
    kept: dict[str, tuple[int, int, list[int]]] = field(default_factory=dict)

    def json(self) -> str:
        """The sample for a script element of the page."""
        return embedded({"runs": self.runs, "texts": self.texts, "scores": self.scores, "columns": self.columns})


def embedded(value: object) -> str:
    """JSON that is safe in a script element: ASCII without characters that HTML could read as markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def steps_in_order(steps: Sequence[int]) -> list[int]:
    """Order steps by bisection (first, last, middle, then middles of the gaps), so that any prefix is spread out."""
    steps = sorted(steps)
    if len(steps) < 3:
        return steps
    order, gaps = [0, len(steps) - 1], [(0, len(steps) - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [steps[i] for i in order]


def cut(text: str) -> str:
    """Cut a text to `LONGEST` characters, and append how many are missing."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} […{len(text) - LONGEST:,} more characters]"


def sample(turns: pd.DataFrame, budget: int = BUDGET) -> Sample:
    """Choose whole episodes up to a budget; what short runs do not use goes to longer ones.

    Args:
        turns: one row per turn, as in `selfplay.runs.sweep.Sweep.turns`.
        budget: approximate size in bytes of JSON.
    """
    names = [name.removeprefix("score/") for name in turns.columns if name.startswith("score/")]
    out = Sample(
        scores=sorted(names, key=lambda name: (name not in FIRST, FIRST.index(name) if name in FIRST else 0, name))
    )
    out.whole = len(turns)
    writer = _Writer(out)
    groups = {str(run): rows for run, rows in turns.groupby("run", sort=False, observed=True)}
    by_size = sorted(groups, key=lambda run: len(groups[run]))
    chosen: dict[str, list[list[dict[str, Any]]]] = {}
    for i, run in enumerate(by_size):
        share = (budget - writer.spent) // (len(by_size) - i)
        chosen[run] = list(_within(writer, groups[run], share))
    for run in groups:
        writer.write(run, chosen[run], len(groups[run]))
    return out


def _within(writer: _Writer, rows: pd.DataFrame, budget: int) -> Iterator[list[dict[str, Any]]]:
    """Yield episodes of a run that fit into the budget, step by step, until a step has none that fits."""
    by_step = {int(step): part for step, part in rows.groupby("step")}
    for step in steps_in_order(list(by_step)):
        fits = False
        for _, part in groupby(by_step[step].to_dict("records"), key=itemgetter("episode")):
            episode = [writer.shortened(turn) for turn in part]
            cost, texts = writer.cost(episode)
            if cost <= budget:
                writer.pay(cost, texts)
                budget -= cost
                fits = True
                yield episode
        if not fits:
            return


class _Writer:
    """Measures the size of episodes and writes them into the sample's columns."""

    def __init__(self, out: Sample) -> None:
        self.out, self.spent = out, 0
        self._paid: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.figures = ["payoff", "advantage", *(f"score/{name}" for name in out.scores)]
        out.columns = {name: [] for name in (*PLACED, *self.figures)}

    def shortened(self, turn: dict[str, Any]) -> dict[str, Any]:
        """Prepare a turn for display: cut texts and round figures."""
        short = {name: _short(turn[name]) for name in self.figures}
        return {**turn, "prompt": cut(_text(turn["prompt"])), "reply": cut(_text(turn["reply"])), **short}

    def cost(self, episode: Sequence[dict[str, Any]]) -> tuple[int, set[str]]:
        """Approximate bytes of JSON, and the texts that are not yet in the sample."""
        texts = {turn[key] for turn in episode for key in ("prompt", "reply")} - self._paid
        numbers = sum(len(str(turn[name])) + 1 for turn in episode for name in self.figures)
        return numbers + PLACES * len(episode) + sum(len(embedded(text)) + 1 for text in texts), texts

    def pay(self, cost: int, texts: set[str]) -> None:
        """Charge an episode to the budget."""
        self.spent += cost
        self._paid |= texts

    def write(self, run: str, episodes: Sequence[Sequence[dict[str, Any]]], whole: int) -> None:
        """Write a run's chosen episodes in the order of play."""
        turns = [turn for episode in sorted(episodes, key=_place) for turn in episode]
        self.out.kept[run] = (len(turns), whole, sorted({int(turn["step"]) for turn in turns}))
        self.out.shown += len(turns)
        if not turns:
            return
        self.out.runs.append({"name": run, "setting": str(turns[0]["setting"]), "seed": _plain(turns[0]["seed"])})
        for turn in turns:
            self._write(turn)

    def _write(self, turn: dict[str, Any]) -> None:
        columns = self.out.columns
        columns["run"].append(len(self.out.runs) - 1)
        columns["step"].append(int(turn["step"]))
        columns["episode"].append(int(turn["episode"]))
        for name in ("role", "player", "group", "prompt", "reply"):
            columns[name].append(self._number(_text(turn[name])))
        for name in self.figures:
            columns[name].append(turn[name])

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._numbers)
            self.out.texts.append(text)
        return self._numbers[text]


def _place(episode: Sequence[dict[str, Any]]) -> tuple[int, int]:
    return int(episode[0]["step"]), int(episode[0]["episode"])


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    """Convert to text; integers stored as floats become integers again, missing values become ""."""
    if _missing(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(value: object) -> int | str | None:
    return None if _missing(value) else _text(value)


def _short(value: object) -> float | int | None:
    """Round a figure to `DIGITS` significant digits; None if it is not a finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short
