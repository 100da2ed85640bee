"""A player that prefers the options in their order, such as a fixed behaviour in logged data."""

from collections.abc import Sequence
from random import Random
from typing import Annotated

from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.options import Range


class Geometric(Player):
    """Takes each option `ratio` times as often as the one before it, in every state; a reply depends on its key alone.

    Args:
        ratio: 1 for the uniform distribution; below 1 the first option is the most frequent, above 1 the last.

    Raises (when acting):
        SelfplayError: an ask has no options.
    """

    concurrent = True

    def __init__(self, ratio: Annotated[float, Range(0.001, 1000)] = 1.0) -> None:
        self.ratio = ratio

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [
            Reply(Random(ask.key).choices(ask.options, p)[0])
            for ask, p in zip(asks, self.probabilities(asks), strict=True)
        ]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        found = []
        for ask in asks:
            if not ask.options:
                raise SelfplayError(
                    f"the role '{ask.role}' is asked for free text, but a player with a ratio between options takes "
                    "one of them; seat another player"
                )
            weights = [self.ratio**place for place in range(len(ask.options))]
            found.append(tuple(weight / sum(weights) for weight in weights))
        return found
