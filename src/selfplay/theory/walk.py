"""Every way that a game can go, by playing it again and again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfplay.core import Ask, Game, Play, Reply, SelfplayError
from selfplay.players.nature import chances
from selfplay.theory.size import NotEnumerable

Past = tuple[tuple[tuple[Ask, ...], tuple[Reply, ...]], ...]  # waves with their replies


@dataclass(frozen=True)
class State:
    """An information state: what a role knows when it is asked. Who sees the same messages is in the same state.

    Attributes:
        role: who is asked.
        ask: the first ask that was met here, with its options.
    """

    role: str
    ask: Ask


@dataclass(frozen=True)
class _Position:
    """Where a walk goes on: the waves that are past, the wave that is being answered, and the edge into this node."""

    past: Past
    wave: tuple[Ask, ...] | None  # None before the first
    said: tuple[Reply, ...]
    runs: list[Play]  # the game itself, at this wave, until one position takes it on
    last: tuple[int, ...]  # a role's last slot; role r's is r - R before its first
    parent: int = 0
    depth: int = 0
    slot: int = -1
    luck: float = 1.0


class Walk:
    """Depth first through a game; what is found is kept in lists, node by node and state by state."""

    def __init__(self, game: Game, limit: int) -> None:
        self.game, self.limit, self.name = game, limit, type(game).__name__
        self.roles = tuple(role for role in game.roles if role != "chance")
        self.edges: list[tuple[int, int, int, float]] = []  # parent, depth, slot, luck
        self.at: list[int] = []
        self.ends: list[tuple[int, tuple[float, ...], tuple[int, ...]]] = []  # node, returns, last
        self.numbers: dict[object, int] = {}
        self.states: list[State] = []
        self.first: list[int] = [0]
        self.above: list[int] = []
        self.forgets: dict[str, str] = {}
        stack = [_Position((), None, (), [game.play()], tuple(range(-len(self.roles), 0)))]
        while stack:
            stack += reversed(self._visit(stack.pop()))

    def _visit(self, here: _Position) -> list[_Position]:
        """Write the node down, let the game go on to its next asks if all are answered; the positions after it."""
        node = len(self.edges)
        if node == self.limit:
            raise NotEnumerable(
                f"{self.name} has more than {self.limit} nodes; raise `limit`, or choose a smaller game"
            )
        self.edges.append((here.parent, here.depth, here.slot, here.luck))
        self.at.append(-1)
        past, wave, said, runs = here.past, here.wave, here.said, here.runs
        while wave is None or len(said) == len(wave):
            run = runs.pop() if runs else self._again(past, wave or ())
            try:
                asks = next(run) if wave is None else run.send(list(said))
            except StopIteration as end:
                self.ends.append((node, self._returns(end.value), here.last))
                return []
            past = past if wave is None else (*past, (wave, said))
            wave, said, runs = tuple(asks), (), [run]
        ask = wave[len(said)]
        position = _Position(past, wave, said, runs, here.last, node, here.depth + 1)
        if ask.role == "chance":
            if not ask.options:
                raise NotEnumerable(f"{self.name} cannot be enumerated: it asks chance for any text; give it options")
            lucks = zip(ask.options, chances(ask), strict=True)
            return [replace(position, said=(*said, Reply(text)), luck=luck) for text, luck in lucks if luck]
        return self._decide(ask, position)

    def _decide(self, ask: Ask, position: _Position) -> list[_Position]:
        """The positions after each option of a role's ask."""
        if ask.role not in self.roles:
            raise SelfplayError(
                f"{self.name} asked the role '{ask.role}', which it does not list in its roles; list it"
            )
        if not ask.options:
            raise NotEnumerable(
                f"{self.name} cannot be enumerated: the role '{ask.role}' may reply with any text at '{ask.prompt}'; "
                "choose a game whose asks have options"
            )
        role = self.roles.index(ask.role)
        state = self._state(ask, position.last[role])
        self.at[position.parent] = state
        return [
            replace(
                position,
                said=(*position.said, Reply(text)),
                slot=slot,
                last=(*position.last[:role], slot, *position.last[role + 1 :]),
            )
            for slot, text in enumerate(ask.options, self.first[state])
        ]

    def _state(self, ask: Ask, above: int) -> int:
        """The number of the information state."""
        state = self.numbers.setdefault(_sight(ask), len(self.states))
        if state == len(self.states):
            self.states.append(State(ask.role, ask))
            self.first.append(self.first[-1] + len(ask.options))
            self.above.append(above)
        met = self.states[state].ask.options
        if met != ask.options:
            raise SelfplayError(
                f"the role '{ask.role}' of {self.name} has the options {met} or {ask.options} after the same messages, "
                f"at '{ask.prompt}'; tell it in the messages which they are"
            )
        if self.above[state] != above:
            self.forgets.setdefault(ask.role, ask.prompt)
        return state

    def _returns(self, returns: Mapping[str, float] | None) -> tuple[float, ...]:
        if returns is None:
            raise NotEnumerable(f"{self.name} gives no returns: only referees know who won; choose a game that knows")
        paid = tuple(float(returns.get(role, math.nan)) for role in self.roles)
        if not all(map(math.isfinite, paid)):
            raise SelfplayError(f"{self.name} ended with the returns {returns}; it must give each role a finite one")
        return paid

    def _again(self, past: Past, wave: tuple[Ask, ...]) -> Play:
        """The game at `wave` once more, by the same replies."""
        run = self.game.play()
        replies: tuple[Reply, ...] | None = None
        for asks, said in (*past, (wave, ())):
            try:
                seen = next(run) if replies is None else run.send(list(replies))
            except StopIteration:
                seen = []
            if list(map(_sight, seen)) != list(map(_sight, asks)):
                raise SelfplayError(f"{self.name} asked differently after the same replies; ask 'chance' for its luck")
            replies = said
        return run


def _sight(ask: Ask) -> tuple[object, ...]:
    """Who is asked, and all that is seen: the name of an information state."""
    return ask.role, *(tuple(sorted(message.items())) for message in ask.messages)
