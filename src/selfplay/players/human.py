"""A person who plays at the terminal."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from rich.table import Table
from rich.text import Text

from selfplay.console import plain
from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.screen import Screen, labels, option_meant, printable

HELP = """/help       this list
? (/probs)  the model's probability of each option, or what it would reply
/all        every message again, as a model would see them
/quit       leave (so do Ctrl-D and Ctrl-C); what was played is kept
//text      reply with /text"""
MOST = 20  # options whose probabilities are shown


class Left(KeyboardInterrupt):
    """The person leaves: by /quit, or since there is no more input. A run stops as at Ctrl-C."""


class Human(Player):
    """A person who reads the messages of each ask in the terminal and types the reply.

    An option is typed as its text or its number. Asks that follow one another in a call with the same role, messages
    and group, such as the G answers to a question, are alternatives: the person may give the last reply to all of the
    rest with an empty line.

    Args:
        advisor: the player whose probabilities and replies "?" shows; None: there is none.
        screen: the terminal.

    Raises (when acting):
        Left: the person leaves.
    """

    def __init__(self, advisor: Player | None = None, screen: Screen | None = None) -> None:
        if screen is None:
            plain("")  # a run's progress bar would be drawn over what is typed
        self.advisor, self.screen = advisor, Screen() if screen is None else screen

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        replies: list[str] = []
        for _, same in groupby(asks, key=lambda ask: (replace(ask, key=""), ask.key if ask.group is None else "")):
            replies += self._alternatives(list(same))
        return [Reply(text) for text in replies]

    def _alternatives(self, asks: Sequence[Ask]) -> list[str]:
        """A reply to each of some asks that differ in their keys alone."""
        replies: list[str] = []
        for left in range(len(asks), 0, -1):
            entry = self._entry(asks[0], left if replies else 0)
            if entry is None:
                return replies + replies[-1:] * left
            replies.append(entry)
        return replies

    def _entry(self, ask: Ask, left: int) -> str | None:
        """The person's reply; None to give the last one again. `left` is the number of asks that may repeat it."""
        if left:
            self.screen.say(f"{left} more to the same messages; Enter repeats your last reply for all of them", "dim")
        else:
            self.screen.heading(f"{ask.role}: your turn")
            self.screen.messages(ask.role, ask.messages)
            if ask.options:
                self.screen.options(ask.options)
        while True:
            entry = self._line(f"{ask.role}> ")
            if ask.options and (option := option_meant(entry, ask.options)) is not None:
                return option
            if not entry and left:
                return None
            if entry.startswith("//"):
                entry = entry[1:]
            elif self._obeyed(entry, ask):
                continue
            if entry and not ask.options:
                return entry
            self.screen.say(_told(entry, ask), "red")

    def _line(self, prompt: str) -> str:
        try:
            return self.screen.read(prompt)
        except EOFError:
            raise Left from None

    def _obeyed(self, entry: str, ask: Ask) -> bool:
        """Whether the entry was a command, which is then done."""
        if entry == "/quit":
            raise Left
        if entry == "/help":
            self.screen.say(HELP)
        elif entry in ("?", "/probs"):
            self._advise(ask)
        elif entry == "/all":
            self.screen.messages(ask.role, ask.messages, whole=True)
            if ask.options:
                self.screen.options(ask.options)
        elif entry.startswith("/"):
            self.screen.say(f"{entry.split()[0]} is no command; see /help, or begin with // to reply with it", "red")
        else:
            return False
        return True

    def _advise(self, ask: Ask) -> None:
        """Show the advisor's probabilities of the options, or a reply."""
        if self.advisor is None:
            self.screen.say("there is no model to ask", "red")
            return
        try:
            with self.screen.waiting("asking the model ..."):
                if not ask.options:
                    [reply] = self.advisor.act([ask])
                else:
                    [likely] = self.advisor.probabilities([ask])
        except SelfplayError as error:
            self.screen.say(f"the model cannot say: {error}", "red")
            return
        if not ask.options:
            self.screen.say(f"the model would reply: {reply.text}", "dim")
            return
        rows = sorted(zip(likely, labels(ask.options), ask.options, strict=True), key=lambda row: -row[0])
        grid = Table.grid(padding=(0, 2))
        for share, label, option in rows[:MOST]:
            grid.add_row(Text(label, "bold yellow"), Text(printable(option)), f"{share:6.1%}", "#" * round(20 * share))
        self.screen.show(grid)
        if len(rows) > MOST:
            self.screen.say(f"and {len(rows) - MOST} less likely ones", "dim")


def _told(entry: str, ask: Ask) -> str:
    """What is wrong with an entry."""
    if ask.options:
        first, last = labels(ask.options)[0], labels(ask.options)[-1]
        return f"'{entry}' is none of the options; type one of them, or its number ({first} to {last})"
    return "a reply cannot be empty; type one, or /help"
