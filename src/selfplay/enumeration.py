"""Rollouts: the episodes of a step are sampled, or all possible ones are enumerated and weighted by probability.

With `exact` there is no sampling noise: the mean over a step's turns is the expectation over game, players and
opponents, so an update follows its exact gradient, as with infinitely many sampled episodes. It requires a game that
can be enumerated and players that provide option probabilities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Player, Reply, SelfplayError, Turn, at_least
from selfplay.opponents.matchmaker import Matchmaker, Seats
from selfplay.options import Range
from selfplay.parallel import current
from selfplay.rollout import check_seats, play

Choice = tuple[Reply, float]  # a reply and its probability


@dataclass(frozen=True)
class _Path:
    """An unfinished episode: its replies so far, by wave, and its turns as (ask, reply, player).

    `Turn`s are mutable, so each outcome creates its own at the end.
    """

    seats: Seats
    weight: float
    waves: tuple[tuple[Reply, ...], ...] = ()
    turns: tuple[tuple[Ask, Reply, str], ...] = ()


def sampled(game: Game, opponent: Matchmaker, step: int, episodes: int, key: str) -> list[Episode]:
    """Sample `episodes` episodes: the opponent rule samples the seats, the players their replies."""
    return play(game, opponent.players, range(episodes), key=key, seats=opponent.seats(step))


def exact(
    game: Game,
    opponent: Matchmaker,
    step: int,
    episodes: int,
    key: str,
    limit: Annotated[int, Range(1, 100_000_000)] = 20_000,
) -> list[Episode]:
    """Enumerate every outcome of the game under every seating, with weights that sum to `episodes`.

    Args:
        limit: maximum number of outcomes per step.

    Raises:
        SelfplayError: there are more outcomes, an ask has no options, or a player provides no option probabilities.
    """
    at_least(1, **{"rollout.limit": limit})
    stateful = any(player.stateful for player in opponent.players.values())
    with current().whole():
        make = current().together if stateful else current().lead
        return make(lambda: _enumerated(game, opponent, step, episodes, limit))


def _enumerated(game: Game, opponent: Matchmaker, step: int, episodes: int, limit: int) -> list[Episode]:
    paths = [_Path(seats, weight * episodes) for seats, weight in opponent.enumerate_seatings(step)]
    for path in paths:
        check_seats(game, {role: name for role, name in path.seats.items() if name in opponent.players})
    done: list[Episode] = []
    known: dict[tuple[object, ...], list[Choice]] = {}
    while paths:
        waiting: list[tuple[_Path, list[Ask]]] = []
        for path in paths:
            asks, returns = _replayed(game, path)
            if asks is None:
                turns = [Turn(ask, reply, player=name) for ask, reply, name in path.turns]
                done.append(Episode(len(done), turns, returns, path.weight, sampled=False, seats=path.seats))
            else:
                waiting.append((path, asks))
        _ask(waiting, opponent.players, known)
        paths = [longer for path, asks in waiting for longer in _branches(path, asks, known)]
        if len(paths) + len(done) > limit:
            raise SelfplayError(
                f"{type(game).__name__} has more than {limit} outcomes; raise rollout.limit, choose a smaller game, "
                "or use rollout=sampled"
            )
    return done


def _replayed(game: Game, path: _Path) -> tuple[list[Ask] | None, dict[str, float] | None]:
    """Replay the path (generators cannot be forked): return the next asks, or None and the returns at the end."""
    run = game.play()
    try:
        asks = next(run)
        for replies in path.waves:
            asks = run.send(list(replies))
    except StopIteration as end:
        return None, end.value
    return asks, None


def _state(ask: Ask, name: str) -> tuple[object, ...]:
    """Everything that the reply distribution may depend on."""
    return name, ask.role, ask.options, ask.weights, *(tuple(sorted(m.items())) for m in ask.messages)


def _ask(
    waiting: Sequence[tuple[_Path, list[Ask]]],
    players: Mapping[str, Player],
    known: dict[tuple[object, ...], list[Choice]],
) -> None:
    """Add the reply distributions for all new states to `known`, with two calls per player."""
    fresh: dict[str, dict[tuple[object, ...], Ask]] = {}
    for path, asks in waiting:
        for ask in asks:
            if ask.role not in path.seats:
                raise SelfplayError(f"the game asked the role '{ask.role}', which it does not list in its roles")
            if not ask.options:
                raise SelfplayError(
                    f"rollout=exact needs options, but the role '{ask.role}' may reply with any text at "
                    f"'{ask.prompt}'; use rollout=sampled"
                )
            name = path.seats[ask.role]
            state = _state(ask, name)
            if state not in known:
                fresh.setdefault(name, {})[state] = ask
    for name, asks_of in fresh.items():
        order = list(asks_of.items())
        likely = players[name].probabilities([ask for _, ask in order])
        places = [(state, ask, i, p) for (state, ask), ps in zip(order, likely, strict=True) for i, p in enumerate(ps)]
        replies = players[name].reply_with([ask for _, ask, _, _ in places], [i for _, _, i, _ in places])
        for (state, _, _, p), reply in zip(places, replies, strict=True):
            known.setdefault(state, []).append((reply, p))


def _branches(path: _Path, asks: list[Ask], known: Mapping[tuple[object, ...], list[Choice]]) -> list[_Path]:
    """The path extended by each combination of replies with non-zero probability."""
    names = [path.seats[ask.role] for ask in asks]
    choices = [known[_state(ask, name)] for ask, name in zip(asks, names, strict=True)]
    longer = []
    for combination in product(*choices):
        likely = math.prod(p for _, p in combination)
        if likely > 0:
            replies = tuple(reply for reply, _ in combination)
            turns = zip(asks, replies, names, strict=True)
            longer.append(
                replace(path, weight=path.weight * likely, waves=(*path.waves, replies), turns=(*path.turns, *turns))
            )
    return longer
