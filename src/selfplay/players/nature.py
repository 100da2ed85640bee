"""Nature, the chance player."""

import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated

from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.options import Count, Holding


def chances(ask: Ask) -> tuple[float, ...]:
    """The probability of each option of a chance ask: its normalised weight, or uniform without weights.

    Raises:
        SelfplayError: there are no options, or the weights are not one non-negative number per option.
    """
    if not ask.options:
        raise SelfplayError(f"the role '{ask.role}' was asked without options; give it some to enumerate its outcomes")
    weights = ask.weights or (1.0,) * len(ask.options)
    if len(weights) != len(ask.options) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise SelfplayError(
            f"the role '{ask.role}' has {len(ask.options)} options, but the weights {ask.weights}; give one "
            "non-negative weight per option"
        )
    return tuple(w / sum(weights) for w in weights)


def numbers(rng: Random, form: Annotated[str, Holding("")], below: Count) -> str:
    """Replace each {} in `form` by a random integer from 0 to `below` - 1."""
    return re.sub(r"\{\}", lambda _: str(rng.randrange(below)), form)


class Nature(Player):
    """The chance player: samples an option by its weight, or calls `draw` if the ask has no options.

    Outcomes are a function of the ask's key.

    Args:
        draw: maps a random generator to a text, for asks without options.

    Raises (when acting):
        SelfplayError: an ask has no options, and `draw` is None.
    """

    def __init__(self, draw: Callable[[Random], str] | None = None) -> None:
        self.draw = draw

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """Sample with a separate generator per ask."""
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        return [chances(ask) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        if ask.options:
            return Reply(rng.choices(ask.options, ask.weights or None)[0])
        if self.draw is None:
            raise SelfplayError(
                "chance was asked without options; give its player a function to sample texts (its `draw`)"
            )
        return Reply(self.draw(rng))


class Deal(Player):
    """Replies in episode i with the i-th text (for evaluation); `play` puts the episode's number into the ask's key."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(self.texts[int(ask.key.rsplit("/", 2)[-2])]) for ask in asks]
