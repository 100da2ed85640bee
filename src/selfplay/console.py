"""Terminal output: lines and tables."""

import os

from rich import box
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 100  # columns, if the output is not a terminal
_console = Console()
_lead = ""


def plain(lead: str) -> None:
    """Switch to plain lines prefixed with `lead` and no progress bar, for processes that share a terminal."""
    global _console, _lead
    _console, _lead = Console(force_terminal=False), lead


def silence() -> None:
    """Print nothing from now on, because another process of the run prints."""
    global _console
    _console = Console(file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the process ends)


def say(text: str) -> None:
    """Print a line, above the progress bar if there is one."""
    _console.print(_lead + text, markup=False, highlight=False, soft_wrap=True)


def terminal() -> Console | None:
    """The terminal; None if the output is redirected or several processes share it."""
    return _console if _console.is_terminal else None


def table_box() -> box.Box:
    """Table borders: ASCII outside a terminal."""
    return box.ROUNDED if _console.is_terminal else box.ASCII2


def show_table(table: Table) -> None:
    """Print a table, with a fixed width outside a terminal."""
    (terminal() or plain_console()).print(table)


def plain_console() -> Console:
    """Standard output as a console of fixed width, for tables outside a terminal."""
    return Console(width=PLAIN_WIDTH)
