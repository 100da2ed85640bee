"""How large a game is, estimated by a few descents from its root: whether it is worth while to enumerate it."""

from random import Random
from statistics import median

from selfplay.core import Ask, Game, Reply, SelfplayError

DESCENTS = 33


class NotEnumerable(SelfplayError):
    """The game keeps its word, but it is too large, takes free text, or leaves it to referees who won."""


def check_size(game: Game, limit: int) -> None:
    """Raise NotEnumerable if the game has, but for a chance of 1 in 100,000, more than `limit` nodes.

    A descent takes one option after another, all alike. The sum of the products of the numbers of options on its way
    is an unbiased estimate of the number of nodes (Knuth 1975, "Estimating the efficiency of backtrack programs"), so
    it is k times too large with a probability of at most 1/k, by Markov's inequality: all 33 of them twice too large
    with at most 2^-33, 17 of 33 ten times too large with at most C(33, 17) 10^-17. A game that goes on to free text is
    left to whoever enumerates it.
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
    """An estimate of the number of nodes, cut off once it exceeds `enough`; None where a reply may be any text."""
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
