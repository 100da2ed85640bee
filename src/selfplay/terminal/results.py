"""What the terminal shows of turns and of a finished episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from selfplay.core import Episode, Turn
from selfplay.opponents.table import earned
from selfplay.screen import Screen, printable

HUMAN = "human"


def seat(role: str, name: str) -> str:
    """A role with its player."""
    return f"{role} (you)" if name == HUMAN else role if role == "chance" else f"{role} ({name})"


def said(turn: Turn) -> str:
    """The reply, with the probability of the option if its player reported one."""
    reply, options = turn.reply, turn.ask.options
    by_index = len(reply.reply_ids) == len(reply.logprobs) == 1 and reply.reply_ids[0] < len(options)
    if by_index and options[reply.reply_ids[0]] == reply.text:
        return f"{reply.text} ({math.exp(reply.logprobs[0]):.0%})"
    return reply.text


def show_turn(screen: Screen, turn: Turn, before: Turn | None) -> None:
    """Print a turn as a spectator sees it; after an answer to the same messages, only the reply."""
    if before is None or turn.ask.group is None or replace(turn.ask, key=before.ask.key) != before.ask:
        screen.heading(seat(turn.ask.role, turn.player))
        if turn.ask.messages:
            screen.messages(turn.ask.role, turn.ask.messages)
    screen.say(f"> {said(turn)}", "bold")


def show_end(screen: Screen, episode: Episode, number: int, watched: bool) -> None:
    """Print every turn with its scores and payoff, those that were hidden included; then what each role earned.

    Args:
        screen: the terminal.
        episode: a played episode, without payoffs if its referees failed.
        number: of the game, from 1.
        watched: whether all turns have been on the screen; they are listed only if they have scores.
    """
    screen.heading(f"end of game {number}")
    names = list(dict.fromkeys(name for turn in episode.turns for name in turn.scores))
    if not watched or names:
        screen.show(_turns(episode.turns, names))
    if any(math.isnan(turn.payoff) for turn in episode.turns):
        return
    paid = earned(episode)
    line = ", ".join(f"{seat(role, episode.seats[role])} {paid[role]:+.4g}" for role in paid)
    mean = "" if episode.returns is not None else " (mean of its turns)"
    screen.say(f"payoff: {line}{mean}", "bold green")


def _turns(turns: Sequence[Turn], scores: Sequence[str]) -> Table:
    """One row per turn; equal ones in succession share a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("role", overflow="fold", style="cyan")
    table.add_column("reply", overflow="fold", ratio=1)
    for name in scores:
        table.add_column(name, justify="right")
    table.add_column("paid", justify="right")
    for cells, same in groupby(turns, key=lambda turn: _cells(turn, scores)):
        times = len(list(same))
        table.add_row(*(Text(printable(cell)) for cell in (cells[0] + (f" x{times}" if times > 1 else ""), *cells[1:])))
    return table


def _cells(turn: Turn, scores: Sequence[str]) -> tuple[str, ...]:
    paid = "" if math.isnan(turn.payoff) or turn.ask.role == "chance" else f"{turn.payoff:+.3g}"
    return (
        seat(turn.ask.role, turn.player),
        said(turn),
        *(f"{turn.scores[name]:.3g}" if name in turn.scores else "" for name in scores),
        paid,
    )


class Totals:
    """The payoffs of each player over the episodes."""

    def __init__(self) -> None:
        self.games, self.paid = 0, dict[str, float]()

    def add(self, episode: Episode) -> None:
        """Count an episode with payoffs."""
        self.games += 1
        for role, payoff in earned(episode).items():
            name = episode.seats[role]
            self.paid[name] = self.paid.get(name, 0.0) + payoff

    def line(self, renamed: Mapping[str, str]) -> str:
        """The sums, in one line."""
        sums = ", ".join(f"{renamed.get(name, name)} {paid:+.4g}" for name, paid in self.paid.items())
        return f"after {self.games} games: {sums}"
