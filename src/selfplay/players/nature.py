"""Nature: the player in the seat "chance"."""

from collections.abc import Callable, Sequence
from random import Random

from selfplay.core import Ask, Player, Reply, SelfplayError


class Nature(Player):
    """Luck, as a function of the ask's key: one of the ask's options, or a free draw where there are none.

    Args:
        draw: a random generator -> text, for asks without options.

    Raises (when acting):
        SelfplayError: an ask without options, and no `draw`.
    """

    def __init__(self, draw: Callable[[Random], str] | None = None) -> None:
        self.draw = draw

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        """Uniform over the options; each ask has a generator of its own."""
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        if ask.options:
            return Reply(rng.choice(ask.options))
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
