"""The terminal: lines and tables for the person who started the program."""

from rich import box
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 100  # columns where the output is no terminal
_console = Console()
_lead = ""


def plain(lead: str) -> None:
    """From now on no progress bar but lines, which begin with `lead`: several processes share the terminal."""
    global _console, _lead
    _console, _lead = Console(force_terminal=False), lead


def say(text: str) -> None:
    """Print a line, above the progress bar where there is one."""
    _console.print(_lead + text, markup=False, highlight=False, soft_wrap=True)


def terminal() -> Console | None:
    """The terminal; None where the output goes elsewhere, or several processes share it."""
    return _console if _console.is_terminal else None


def table_box() -> box.Box:
    """The lines of a table: ASCII outside a terminal."""
    return box.ROUNDED if _console.is_terminal else box.ASCII2


def show_table(table: Table) -> None:
    """Print a table, of a fixed width outside a terminal."""
    (terminal() or Console(width=PLAIN_WIDTH)).print(table)
