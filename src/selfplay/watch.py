"""A view of runs in the terminal while they go on.

selfplay watch multirun/mine               until no run goes on, or Ctrl-C
selfplay watch outputs multirun --once     print it once
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import interrupts
from selfplay.commandline import run_command

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from selfplay.runs.standing import Standing

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.:-=+*#"
CURVE, NAME = 16, 30  # most characters of a curve and of a run's name
REASONS = 8  # most reasons below the table
COLOURS = {"running": "green", "waiting": "dim", "finished": "", "interrupted": "yellow", "stalled": "yellow"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="selfplay watch",
        description="Show runs while they go on, one per row: state, step, the metric that the run optimizes with its "
        "change since the start and its curve, and the time left. A run is stalled if it has written nothing for at "
        "least a minute and ten times its slowest recent step: it was killed, or hangs. Outside a terminal, the table "
        "is printed once.",
    )
    add = found.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of a run, or one that contains runs")
    add("--every", type=float, default=3.0, metavar="SECONDS", help="time between two looks (%(default)s)")
    add("--once", action="store_true", help="print the table once")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors print one line to stderr and exit with code 1."""
    args = parser().parse_args(arguments)
    run_command(lambda: watch(args))


def watch(args: argparse.Namespace) -> None:
    """Show the runs until none goes on.

    Raises:
        SelfplayError: a folder contains no run, or `args.every` is too small.
    """
    from rich.live import Live

    from selfplay.console import plain_console, terminal
    from selfplay.errors import SelfplayError
    from selfplay.runs.standing import standings

    if not args.every >= 0.1:
        raise SelfplayError(f"--every is {args.every:g}; use at least 0.1 seconds")
    screen, found = terminal(), standings(args.folders)
    if args.once or screen is None:
        shown = screen or plain_console()
        shown.print(view(found, shown))
        return

    def last_words() -> None:
        screen.show_cursor(True)

    with interrupts.leaving(last_words), Live(console=screen, auto_refresh=False) as live:
        while True:
            live.update(view(found, screen), refresh=True)
            if not any(one.goes_on for one in found.values()):
                return
            time.sleep(args.every)
            found = standings(args.folders)


def view(found: Mapping[str, Standing], console: Console) -> Group:
    """The table of the runs, and below it why some of them do not go on."""
    from collections import Counter

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from selfplay.console import table_box
    from selfplay.measures import measure

    counts = Counter(one.state for one in found.values())
    total = f"{len(found)} run{'' if len(found) == 1 else 's'}"
    title = f"{total}: {', '.join(f'{count} {state}' for state, count in counts.items())}"
    metrics = list(dict.fromkeys(filter(None, (one.run.optimized for one in found.values()))))
    table = Table(title=title, box=table_box(), show_edge=False, pad_edge=False)
    table.add_column("run", no_wrap=True, max_width=NAME)
    table.add_column("setting")
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    if len(metrics) != 1:
        table.add_column("metric")
    unit = f", {measure(metrics[0]).unit}" if len(metrics) == 1 and measure(metrics[0]).share else ""
    table.add_column(f"{metrics[0]}{unit}" if len(metrics) == 1 else "value", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    settings, unicode = _settings(found), console.encoding.lower().startswith("utf")

    def short(text: str) -> Text:
        """A text that is cut where the terminal is too narrow."""
        return Text(text, no_wrap=True, overflow="ellipsis" if unicode else "crop")

    for name, one in found.items():
        metric = [short((one.run.optimized or "").removeprefix("eval/"))] if len(metrics) != 1 else []
        steps = f"{one.run.steps}/{'?' if one.run.total is None else one.run.total}"
        state = Text(one.state, style=COLOURS.get(one.state, "red"))
        left = "" if one.left is None else _duration(one.left)
        curve = Text(sparkline(one.values, BLOCKS if unicode else PLAIN))
        table.add_row(short(name), short(settings[name]), state, steps, *metric, *_value(one), curve, left)
    reasons = [f"{name} is {one.state}: {_reason(one)}" for name, one in found.items() if _reason(one)]
    more = [f"and {len(reasons) - REASONS} more"] if len(reasons) > REASONS else []
    return Group(table, *map(Text, [*reasons[:REASONS], *more]))


def sparkline(values: Sequence[float], signs: str = BLOCKS, width: int = CURVE) -> str:
    """A curve in one line of text, from the lowest value to the highest; each sign is the mean of a stretch."""
    count = min(len(values), width)
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, reach = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(signs[min(int((mean - low) / reach * len(signs)), len(signs) - 1) if reach else 0] for mean in means)


def _settings(found: Mapping[str, Standing]) -> dict[str, str]:
    """What distinguishes the runs: the overrides that are not shared by all of them, and the seed."""
    from selfplay.report.settings import Settings

    settings = Settings(one.run.setting for one in found.values())
    alone = len(settings.all) == 1
    seeds = {one.run.seed for one in found.values()}
    shown = {}
    for name, one in found.items():
        seed = f"seed={one.run.seed}" if len(seeds) > 1 and one.run.seed is not None else ""
        setting = "" if alone and seed else settings.short(one.run.setting)
        shown[name] = f"{setting} {seed}".strip()
    return shown


def _value(one: Standing) -> tuple[str, Text]:
    """The last value of the optimized metric, and its change since the first."""
    from rich.text import Text

    from selfplay.measures import measure, number

    if not one.values:
        return "", Text()
    shown = measure(one.run.optimized or "")
    change = shown.factor * (one.values[-1] - one.values[0])
    better = change < 0 if shown.less_is_better else change > 0
    text = number(change, shown.digits, signed=True) if len(one.values) > 1 else ""
    style = "" if not change else "green" if better else "red"
    return number(shown.factor * one.values[-1], shown.digits), Text(text, style=style)


def _reason(one: Standing) -> str:
    return "" if one.goes_on else one.run.reason


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    main()
