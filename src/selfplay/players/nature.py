"""Nature: the player in the seat "chance"."""

import math
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Annotated

from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.options import Count, Holding


def chances(ask: Ask) -> tuple[float, ...]:
    """How likely each option of a chance ask is.

    Raises:
        SelfplayError: there are no options, or not one weight an option.
    """
    if not ask.options:
        raise SelfplayError(f"the role '{ask.role}' was asked without options, so its luck cannot be enumerated")
    weights = ask.weights or (1.0,) * len(ask.options)
    if len(weights) != len(ask.options) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise SelfplayError(f"the role '{ask.role}' has {len(ask.options)} options, but the weights {ask.weights}")
    return tuple(w / sum(weights) for w in weights)


def numbers(rng: Random, form: Annotated[str, Holding("")], below: Count) -> str:
    """A text with a whole number drawn from 0 to `below` - 1 in the place of each {}."""
    return re.sub(r"\{\}", lambda _: str(rng.randrange(below)), form)


class Nature(Player):
    """Luck, as a function of the ask's key: one of the ask's options by their weights, or a free draw without options.

    Args:
        draw: a random generator -> text, for asks without options.

    Raises (when acting):
        SelfplayError: an ask without options, and no `draw`.
    """

    def __init__(self, draw: Callable[[Random], str] | None = None) -> None:
        self.draw = draw

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """By the options' weights, alike where there are none; each ask has a generator of its own."""
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        return [chances(ask) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        if ask.options:
            return Reply(rng.choices(ask.options, ask.weights or None)[0])
        if self.draw is None:
            raise SelfplayError(
                "chance was asked without options; give the player in its seat a way to draw (its `draw`)"
            )
        return Reply(self.draw(rng))


class Deal(Player):
    """Texts dealt in their order: the i-th ask of a call gets the i-th text (for evaluation)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(text) for _, text in zip(asks, self.texts, strict=True)]
