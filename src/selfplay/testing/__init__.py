"""Conformance tests for games: checks of the rules that every game in selfplay must follow.

    from selfplay.testing import check_game

    def test_my_game():
        check_game(MyGame(rounds=3))

The game is played with random players in every seat, and with invalid replies. If all asks have options and the game is
small enough, its whole tree is also enumerated. Neither pytest nor a model is needed.
"""

from selfplay.testing.conformance import Conformance, check_game
from selfplay.testing.players import Babbler, Dice, Parrot, Unasked

__all__ = ["Babbler", "Conformance", "Dice", "Parrot", "Unasked", "check_game"]
