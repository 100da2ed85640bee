"""Depth-first enumeration of a game by replaying it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfplay.core import Ask, Game, Play, Reply, SelfplayError
from selfplay.players.nature import chances
from selfplay.theory.size import NotEnumerable

Past = tuple[tuple[tuple[Ask, ...], tuple[Reply, ...]], ...]  # waves (asks yielded together) and their replies


@dataclass(frozen=True)
class State:
    """An information state. Two asks are in the same state if they have the same role and messages.

    Attributes:
        role: the acting role.
        ask: the first ask found in this state, with its options.
    """

    role: str
    ask: Ask


@dataclass(frozen=True)
class _Position:
    """A pending node of the walk: the answered waves, the current wave, and the edge that leads to the node."""

    past: Past
    wave: tuple[Ask, ...] | None  # None before the first
    given: tuple[Reply, ...]  # replies to the current wave so far
    runs: list[Play]  # a generator paused at this wave; the first sibling to advance consumes it
    last: tuple[int, ...]  # each role's last slot; r - R for a role r that has not acted
    parent: int = 0
    depth: int = 0
    slot: int = -1
    probability: float = 1.0


class Walk:
    """A depth-first walk over a game, which records nodes and information states in lists."""

    def __init__(self, game: Game, limit: int) -> None:
        self.game, self.limit, self.name = game, limit, type(game).__name__
        self.roles = tuple(role for role in game.roles if role != "chance")
        self.edges: list[tuple[int, int, int, float]] = []  # parent, depth, slot, chance probability
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
        """Record the node, advance the game if all asks are answered, and return the child positions."""
        node = len(self.edges)
        if node == self.limit:
            raise NotEnumerable(
                f"{self.name} has more than {self.limit} nodes; raise `limit`, or choose a smaller game"
            )
        self.edges.append((here.parent, here.depth, here.slot, here.probability))
        self.at.append(-1)
        past, wave, given, runs = here.past, here.wave, here.given, here.runs
        while wave is None or len(given) == len(wave):
            run = runs.pop() if runs else self._replay(past, wave or ())
            try:
                asks = next(run) if wave is None else run.send(list(given))
            except StopIteration as end:
                self.ends.append((node, self._returns(end.value), here.last))
                return []
            past = past if wave is None else (*past, (wave, given))
            wave, given, runs = tuple(asks), (), [run]
        ask = wave[len(given)]
        position = _Position(past, wave, given, runs, here.last, node, here.depth + 1)
        if ask.role == "chance":
            if not ask.options:
                raise NotEnumerable(
                    f"{self.name} cannot be enumerated: it asks chance for free text; give its chance asks options"
                )
            outcomes = zip(ask.options, chances(ask), strict=True)
            return [replace(position, given=(*given, Reply(text)), probability=p) for text, p in outcomes if p]
        return self._decide(ask, position)

    def _decide(self, ask: Ask, position: _Position) -> list[_Position]:
        """One child position per option of a role's ask."""
        if ask.role not in self.roles:
            raise SelfplayError(f"{self.name} asked the role '{ask.role}', which its `roles` do not list; add it")
        if not ask.options:
            raise NotEnumerable(
                f"{self.name} cannot be enumerated: the role '{ask.role}' replies with free text at '{ask.prompt}'; "
                "choose a game whose asks have options"
            )
        role = self.roles.index(ask.role)
        state = self._state(ask, position.last[role])
        self.at[position.parent] = state
        return [
            replace(
                position,
                given=(*position.given, Reply(text)),
                slot=slot,
                last=(*position.last[:role], slot, *position.last[role + 1 :]),
            )
            for slot, text in enumerate(ask.options, self.first[state])
        ]

    def _state(self, ask: Ask, above: int) -> int:
        """The index of the ask's information state, added if new."""
        state = self.numbers.setdefault(_observed(ask), len(self.states))
        if state == len(self.states):
            self.states.append(State(ask.role, ask))
            self.first.append(self.first[-1] + len(ask.options))
            self.above.append(above)
        met = self.states[state].ask.options
        if met != ask.options:
            raise SelfplayError(
                f"the role '{ask.role}' of {self.name} has the options {met} or {ask.options} after the same messages, "
                f"at '{ask.prompt}'; make the messages distinguish the two cases"
            )
        if self.above[state] != above:
            self.forgets.setdefault(ask.role, ask.prompt)
        return state

    def _returns(self, returns: Mapping[str, float] | None) -> tuple[float, ...]:
        if returns is None:
            raise NotEnumerable(
                f"{self.name} returns no payoffs because referees decide them; choose a game that returns its own"
            )
        paid = tuple(float(returns.get(role, math.nan)) for role in self.roles)
        if not all(map(math.isfinite, paid)):
            raise SelfplayError(f"{self.name} ended with the returns {returns}; return a finite number for each role")
        return paid

    def _replay(self, past: Past, wave: tuple[Ask, ...]) -> Play:
        """A new run of the game, advanced to `wave` with the same replies."""
        run = self.game.play()
        replies: tuple[Reply, ...] | None = None
        for asks, given in (*past, (wave, ())):
            try:
                seen = next(run) if replies is None else run.send(list(replies))
            except StopIteration:
                seen = []
            if list(map(_observed, seen)) != list(map(_observed, asks)):
                raise SelfplayError(
                    f"{self.name} asked differently after the same replies; ask 'chance' for random numbers"
                )
            replies = given
        return run


def _observed(ask: Ask) -> tuple[object, ...]:
    """The key of an information state: the role and the contents of all its messages."""
    return ask.role, *(tuple(sorted(message.items())) for message in ask.messages)
