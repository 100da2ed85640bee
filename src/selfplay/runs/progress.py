"""Progress of a run: a live bar on a terminal, plain lines elsewhere, and a table at the end."""

import math
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from selfplay.console import say, show_table, table_box, terminal
from selfplay.measures import headline

LINES = 20  # approximate number of plain lines that a run prints
ON_BAR, ON_LINE = 3, 6  # most metrics shown of a step
SHARES = ("truth", "invalid")  # shown of every role that has them
COUNTS = ("questions", "games")  # of an evaluation: shown above its table
MOST_ENTRIES = 8  # larger mappings are not shown entry by entry


class Progress:
    """Shows how far the run is; a context manager around the training loop.

    Args:
        total: steps of the run.
        done: steps already done.
        watch: a metric to show first; "" for none.
    """

    def __init__(self, total: int, done: int = 0, watch: str = "") -> None:
        self._total, self._done, self._watch = total, done, watch
        self._every = max(1, math.ceil(total / LINES))
        self._last = time.perf_counter()
        self._pending = ""
        self._first = True
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        self._last = time.perf_counter()
        if screen := terminal():
            columns = (TextColumn("step"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[live]}", markup=False), console=screen)
            self._bar.add_task("", total=self._total, completed=self._done, live="")
            self._bar.start()
        return self

    def update(self, step: int, metrics: Mapping[str, object], evaluated: int | None = None) -> None:
        """Show the progress after a step; `evaluated` is the step of the evaluation in the metrics, by default this."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        since = "" if evaluated in (None, step) else f" (step {evaluated})"
        if self._bar:
            live = "  ".join([*_figures(metrics, self._watch, ON_BAR, since), f"{seconds:.1f} s/step"])
            self._bar.update(self._bar.task_ids[0], completed=step, live=live)
            return
        figures = _figures(metrics, self._watch, ON_LINE, since)
        if isinstance(mismatch := metrics.get("logprob_mismatch"), float):
            figures.append(f"logprob_mismatch {mismatch:.0e}")
        line = "  ".join([f"step {step}/{self._total}", *figures, f"{seconds:.1f} s"])
        due = self._first or step % self._every == 0 or step >= self._total
        self._first, self._pending = False, "" if due else line
        if due:
            say(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._pending:
            say(self._pending)


def closing_table(before: Mapping[str, Any], after: Mapping[str, Any], gain: Mapping[str, Any]) -> None:
    """Print the held-out evaluations before and after the run, and their change.

    Args:
        before, after: {"accuracy", "interval": [low, high] or None, "questions", label: {value: accuracy},
            "intervals": {label: {value: [low, high]}}, ...}.
        gain: {"gain": after minus before, "interval": [low, high] or None}.
    """
    table = _table(f"{after['questions']} held-out questions, percent right (95% intervals)")
    table.add_row(
        Text("held-out accuracy"),
        Text(_percent(before["accuracy"]) + _interval(before["interval"])),
        Text(_percent(after["accuracy"]) + _interval(after["interval"])),
        Text(_percent(gain["gain"], "+") + _interval(gain["interval"], "+"), style=_colour(gain["gain"])),
        style="bold",
        end_section=True,
    )
    for part in [key for key in after if _is_label(after[key])]:
        names = list(dict.fromkeys([*before[part], *after[part]]))
        for name in names:
            label = f"level {name}" if part == "levels" else str(name)
            row = _change(label, *((of[part].get(name), _by(of, part, name)) for of in (before, after)))
            table.add_row(*row, end_section=name == names[-1])
    show_table(table)


def only_figures(found: Mapping[str, Any]) -> None:
    """Print the evaluation of a run without steps: figures with their intervals, mappings entry by entry."""
    table = Table(title="evaluation", box=table_box(), show_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("", justify="right", overflow="fold")
    for name, value in found.items():
        entries = value if isinstance(value, Mapping) else {"": value}
        for key, number in entries.items():
            if isinstance(number, int | float):
                text = f"{number:.4f}" if isinstance(number, float) else str(number)
                table.add_row(
                    Text(f"{name} {key}".strip()),
                    Text(text + ("" if key else ends(found, name, name == headline(found)))),
                )
        if isinstance(value, list) and not _is_interval(name):
            table.add_row(Text(name), Text("; ".join(map(str, value)) or "nothing"))
    show_table(table)


def closing_figures(
    before: Mapping[str, Any], after: Mapping[str, Any], gain: Mapping[str, Any], title: str = "evaluation"
) -> None:
    """Print the figures of an evaluation before and after the run; each entry of a small mapping is a row.

    Figures and their changes are followed by their 95 % intervals, where available.
    """
    rows = changes(before, after)
    counts = [f"{last:.0f} {name}" for name, first, last in rows if name in COUNTS and first == last]
    table = _table(", ".join([title, *counts]))
    for name, first, last in rows:
        if name in COUNTS and first == last:
            continue
        main = name == headline(after)
        cells = (f"{first:.4f}{ends(before, name, main)}", f"{last:.4f}{ends(after, name, main)}")
        table.add_row(*map(Text, (name, *cells, f"{last - first:+.4f}{ends(gain, name, main, '+')}")))
    show_table(table)


def _is_interval(name: str) -> bool:
    return name == "interval" or name.endswith("_interval")


def ends(found: Mapping[str, Any], name: str, main: bool, sign: str = "") -> str:
    """The interval of a figure, as text: `<name>_interval`, or `interval` for the main figure; "" without one."""
    interval = found.get(f"{name}_interval") or (found.get("interval") if main else None)
    return f" [{interval[0]:{sign}.4f}, {interval[1]:{sign}.4f}]" if interval else ""


def _is_label(value: object) -> bool:
    """Whether an entry of an evaluation is a mapping label -> accuracy."""
    return isinstance(value, Mapping) and all(isinstance(share, float) for share in value.values())


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(name, before, after) of the figures that two evaluations share; each entry of a small mapping is one."""
    rows: list[tuple[str, float, float]] = []
    for name, value in after.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping) and len(value) <= MOST_ENTRIES:
            rows += [
                (f"{name} {key}", was[key], number)
                for key, number in value.items()
                if isinstance(number, int | float) and key in was
            ]
        elif isinstance(value, int | float) and isinstance(was, int | float):
            rows.append((name, float(was), float(value)))
    return rows


def _table(title: str) -> Table:
    """An empty table with the columns before, after and change."""
    table = Table(title=title, box=table_box(), show_edge=False, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", overflow="fold")
    return table


def _figures(metrics: Mapping[str, object], watch: str, most: int, since: str) -> list[str]:
    """The watched metric, then every role's reward, or its payoff if it has none, and its shares; `most` in all.

    `since` follows figures of an evaluation.
    """
    named = {key: key.rpartition("/")[::2] for key in metrics if key.count("/") == 1}
    judged = {role for role, name in named.values() if name == "reward"}
    earned = [key for key, (_, name) in named.items() if name == "reward"]
    earned += [key for key, (role, name) in named.items() if name == "payoff" and role not in judged]
    shares = [key for name in SHARES for key in named if named[key][1] == name]
    shown = []
    for key in dict.fromkeys([watch, *earned, *shares]):
        value = metrics.get(key)
        if isinstance(value, int | float):
            shown.append(f"{key} {value:.3f}{since}" if key.startswith("eval/") else f"{key} {value:.2f}")
    return shown[:most]


def _by(found: Mapping[str, Any], label: str, value: str) -> list[float] | None:
    """The interval of the accuracy on questions with this label, or None."""
    interval: list[float] | None = found.get("intervals", {}).get(label, {}).get(value)
    return interval


def _change(
    label: str, before: tuple[float | None, list[float] | None], after: tuple[float | None, list[float] | None]
) -> tuple[Text, Text, Text, Text]:
    cells = ["-" if share is None else _percent(share) + _interval(ends) for share, ends in (before, after)]
    if before[0] is None or after[0] is None:
        return Text(label), Text(cells[0]), Text(cells[1]), Text("-")
    change = after[0] - before[0]
    return Text(label), Text(cells[0]), Text(cells[1]), Text(_percent(change, "+"), style=_colour(change))


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
    return "" if interval is None else f" [{_percent(interval[0], sign)}, {_percent(interval[1], sign)}]"


def _colour(change: float) -> str:
    return "green" if change > 0 else "red" if change < 0 else ""
