"""A randomised estimate of a game tree's size, made before enumerating it."""

from random import Random
from statistics import median

from selfplay.core import Ask, Game, Reply, SelfplayError

DESCENTS = 33


class NotEnumerable(SelfplayError):
    """The game is valid but cannot be enumerated: it is too large, accepts free text, or is paid by referees."""


def check_size(game: Game, limit: int) -> None:
    """Raise NotEnumerable if the game has more than `limit` nodes, with a false-positive probability below 2e-8.

    A descent samples options uniformly from the root. The running sum of the products of branching factors along it is
    an unbiased estimate of the number of nodes (Knuth 1975, "Estimating the efficiency of backtrack programs"). By
    Markov's inequality an estimate is k times too large with probability at most 1/k: all 33 are twice too large with
    probability at most 2^-33, and 17 of 33 are ten times too large with probability at most C(33, 17) 10^-17. A game
    that leads to free text passes; the enumeration rejects it.
    """
    rng = Random(0)
    found: list[int] = []
    for _ in range(DESCENTS):
        size = _descent(game, rng, 10 * limit)
        if size is None:
            return
        found.append(size)
        if size <= 2 * limit and sum(s <= 10 * limit for s in found) > DESCENTS // 2:
            return
    if min(found) > 2 * limit or median(found) > 10 * limit:
        sizes = ", ".join(f"{name}={value}" for name, value in vars(game).items() if type(value) is int)
        raise NotEnumerable(
            f"{type(game).__name__}({sizes}) has more than {limit} nodes, too many to enumerate; raise `limit`, or "
            "choose a smaller game or another evaluation"
        )


def _descent(game: Game, rng: Random, enough: int) -> int | None:
    """One estimate of the number of nodes, stopped once it exceeds `enough`; None if an ask accepts free text."""
    product = total = 1
    play = game.play()
    try:
        asks: list[Ask] = next(play)
        while total <= enough:
            replies = []
            for ask in asks:
                options = [o for i, o in enumerate(ask.options) if not ask.weights or ask.weights[i] > 0]
                if not options:
                    return None
                product *= len(options)
                total += product
                replies.append(Reply(rng.choice(options)))
            asks = play.send(replies)
    except StopIteration:
        pass
    return total
