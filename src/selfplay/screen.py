"""A person's terminal: what games and models show there, and what is typed. Imports nothing slow."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH = 80  # columns, if the output is not a terminal
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline: they could move the cursor
Messages = Sequence[Mapping[str, str]]


class Screen:
    """Prints to stdout, and reads lines from the terminal, or from stdin if that is none."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=WIDTH)
        self._seen: dict[str, Messages] = {}
        with suppress(ImportError):
            import readline  # noqa: F401  gives `input` editing and a history

    def read(self, prompt: str) -> str:
        """The next line without surrounding space; encodable, without control characters.

        Raises:
            EOFError: there are no more lines.
        """
        if sys.stdin.isatty():
            try:
                return printable(input(prompt)).strip()
            except (EOFError, KeyboardInterrupt):
                self.console.print()
                raise
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        self.say(f"{prompt}{line.strip()}")
        return printable(line).strip()

    def say(self, text: str, style: str = "") -> None:
        """Print lines."""
        self.console.print(Text(printable(text), style=style), soft_wrap=not self.console.is_terminal)

    def show(self, shown: RenderableType) -> None:
        """Print a table or the like."""
        self.console.print(shown)

    def heading(self, text: str) -> None:
        """Print a rule with a title."""
        self.console.print()
        self.console.print(Rule(Text(printable(text), style="bold"), style="dim", align="left"))

    def messages(self, reader: str, messages: Messages, whole: bool = False) -> None:
        """Print what is new in the messages since those last printed for the same reader.

        Args:
            reader: who reads them.
            messages: "role" and "content" of each.
            whole: print all of them.
        """
        before, self._seen[reader] = self._seen.get(reader, ()), messages
        count, begins = (0, "") if whole else _known(before, messages)
        if count or begins:
            self.say("(what was shown before is left out; /all shows it)", style="dim")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for message in messages[count:]:
            text = message["content"]
            if begins and message is messages[-1]:
                text = text[len(begins) :].lstrip("\n")
            grid.add_row(Text(printable(message["role"])), Text(printable(text)))
        self.show(grid if messages else Text("(no message)", style="dim"))

    def options(self, options: Sequence[str]) -> None:
        """Print options with their labels."""
        labelled = (
            Text.assemble((label, "bold yellow"), " ", printable(option))
            for label, option in zip(labels(options), options, strict=True)
        )
        self.show(Columns(labelled, padding=(0, 3)))

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Within the block, show that something is computed."""
        return self.console.status(Text(text, style="dim")) if self.console.is_terminal else nullcontext()


def printable(text: str) -> str:
    """The text without characters that a terminal would obey or that cannot be encoded."""
    return CONTROL.sub("?", text.replace("\r\n", "\n")).encode("utf-8", "replace").decode()


def labels(options: Sequence[str]) -> list[str]:
    """The label of each option: its number from 1, after a # if an option is itself a number."""
    sign = "#" if any(option.strip().isdigit() for option in options) else ""
    return [f"{sign}{number}" for number in range(1, len(options) + 1)]


def option_meant(entry: str, options: Sequence[str]) -> str | None:
    """The option that an entry names by its text, by its text in another case, or by its number; None if it does not.

    `#2` is always the second option, `2` only if no option is itself a number.
    """
    if entry in options:
        return entry
    alike = [option for option in options if option.strip().casefold() == entry.casefold()]
    if len(alike) == 1:
        return alike[0]
    named = labels(options)
    label = entry if entry in named else entry.removeprefix("#")
    return options[named.index(label)] if label in named else None


def _known(before: Messages, now: Messages) -> tuple[int, str]:
    """How many of the first messages were printed before, and how the last one begins if it only grew."""
    if 0 < len(before) < len(now) and list(now[: len(before)]) == list(before):
        return len(before), ""
    if before and len(before) == len(now) and list(now[:-1]) == list(before[:-1]):
        old, new = before[-1]["content"], now[-1]["content"]
        if len(new) > len(old) and new.startswith(old):
            return len(now) - 1, old
    return 0, ""
