"""Which episodes a step learns from: some that were drawn, or every one that could be, weighed by its probability.

With `every` nothing is left to luck: the mean over a step's turns is the expectation over the game, the players and
their opponents, so an update follows its exact gradient. It is for games that can be enumerated and players that know
their probabilities; what is learnt is what infinitely many drawn episodes would teach.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Player, Reply, SelfplayError, Turn, at_least
from selfplay.opponents.matchmaker import Matchmaker, Seats
from selfplay.options import Range
from selfplay.rollout import check_seats, play

Choice = tuple[Reply, float]  # a reply and how likely it is


@dataclass(frozen=True)
class _Path:
    """An episode under way: the replies so far, wave by wave, and who replied what to what.

    Turns are written to, so each outcome makes its own when it is done.
    """

    seats: Seats
    weight: float
    waves: tuple[tuple[Reply, ...], ...] = ()
    turns: tuple[tuple[Ask, Reply, str], ...] = ()


def sampled(game: Game, opponent: Matchmaker, step: int, episodes: int, key: str) -> list[Episode]:
    """`episodes` episodes, drawn: the seats by the opponent, the replies by the players."""
    return play(game, opponent.players, range(episodes), key=key, seats=opponent.seats(step))


def exact(
    game: Game,
    opponent: Matchmaker,
    step: int,
    episodes: int,
    key: str,
    limit: Annotated[int, Range(1, 100_000_000)],
) -> list[Episode]:
    """Every outcome of the game under every seating, weighed; the weights add up to `episodes`.

    Args:
        limit: the most outcomes of a step.

    Raises:
        SelfplayError: more outcomes than that, an ask without options, or a player that cannot say how likely they are.
    """
    at_least(1, **{"rollout.limit": limit})
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
                "or take rollout=sampled"
            )
    return done


def _replayed(game: Game, path: _Path) -> tuple[list[Ask] | None, dict[str, float] | None]:
    """The game's next asks after the path's replies, or None and the returns: a generator cannot be forked."""
    run = game.play()
    try:
        asks = next(run)
        for said in path.waves:
            asks = run.send(list(said))
    except StopIteration as end:
        return None, end.value
    return asks, None


def _sight(ask: Ask, name: str) -> tuple[object, ...]:
    """All that an answer may depend on, but luck."""
    return name, ask.role, ask.options, ask.weights, *(tuple(sorted(m.items())) for m in ask.messages)


def _ask(
    waiting: Sequence[tuple[_Path, list[Ask]]],
    players: Mapping[str, Player],
    known: dict[tuple[object, ...], list[Choice]],
) -> None:
    """What every player may reply to what it has not been asked before, in two calls a player."""
    fresh: dict[str, dict[tuple[object, ...], Ask]] = {}
    for path, asks in waiting:
        for ask in asks:
            if ask.role not in path.seats:
                raise SelfplayError(f"the game asked the role '{ask.role}', which it does not list in its roles")
            if not ask.options:
                raise SelfplayError(
                    f"rollout=exact needs options, but the role '{ask.role}' may reply with any text at "
                    f"'{ask.prompt}'; take rollout=sampled"
                )
            name = path.seats[ask.role]
            sight = _sight(ask, name)
            if sight not in known:
                fresh.setdefault(name, {})[sight] = ask
    for name, asks_of in fresh.items():
        order = list(asks_of.items())
        likely = players[name].probabilities([ask for _, ask in order])
        places = [(sight, ask, i, p) for (sight, ask), ps in zip(order, likely, strict=True) for i, p in enumerate(ps)]
        replies = players[name].reply_with([ask for _, ask, _, _ in places], [i for _, _, i, _ in places])
        for (sight, _, _, p), reply in zip(places, replies, strict=True):
            known.setdefault(sight, []).append((reply, p))


def _branches(path: _Path, asks: list[Ask], known: Mapping[tuple[object, ...], list[Choice]]) -> list[_Path]:
    """The path after each combination of replies that can be."""
    names = [path.seats[ask.role] for ask in asks]
    choices = [known[_sight(ask, name)] for ask, name in zip(asks, names, strict=True)]
    longer = []
    for combination in product(*choices):
        likely = math.prod(p for _, p in combination)
        if likely > 0:
            said = tuple(reply for reply, _ in combination)
            turns = zip(asks, said, names, strict=True)
            longer.append(
                replace(path, weight=path.weight * likely, waves=(*path.waves, said), turns=(*path.turns, *turns))
            )
    return longer
