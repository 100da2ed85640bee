"""A player's answers to a list of questions: play without an update."""

from collections.abc import Sequence

from selfplay.core import Player
from selfplay.games.dataset import Dataset
from selfplay.players.nature import Deal
from selfplay.rollout import play


def answers(player: Player, questions: Sequence[str], key: str) -> list[str]:
    """One reply per question, in order.

    Args:
        player: the player that answers.
        questions: the questions.
        key: seed of the sampling.
    """
    seats = {"chance": Deal(questions), "solver": player}
    episodes = play(Dataset(answers=1, quality_weight=0.0), seats, range(len(questions)), key)
    return [episode.turns[1].reply.text for episode in episodes]
