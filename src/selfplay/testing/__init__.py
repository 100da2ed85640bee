"""Conformance tests of a game: whether it keeps the rules that every game of selfplay keeps.

    from selfplay.testing import check_game

    def test_my_game():
        check_game(MyGame(rounds=3))

The game is played with random players in every seat, and with replies that nobody asked for. A game whose asks all have
options is enumerated, too, where it is small enough. Neither pytest nor a model is needed.
"""

from selfplay.testing.conformance import Conformance, check_game
from selfplay.testing.players import Babbler, Dice, Parrot, Unasked

__all__ = ["Babbler", "Conformance", "Dice", "Parrot", "Unasked", "check_game"]
