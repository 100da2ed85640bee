"""What a run is made of, ready to be played; `selfplay.building` makes one from a config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfplay.core import Episode, Game, Policy, Referee, Update
from selfplay.opponents.matchmaker import Matchmaker


@dataclass(frozen=True)
class Experiment:
    """What a run is made of: a game, those who play and score it, an update, an evaluation.

    Attributes:
        opponent: who sits where, episode by episode; it knows all players by name.
        players: "learner" and "reference", for the referees.
        referees: score name -> referee.
        rollout: (game, opponent, step, episodes, key) -> a step's episodes, see `selfplay.enumeration`.
        evaluation: experiment -> an evaluation, see `selfplay.evaluations`; or None.
    """

    game: Game
    opponent: Matchmaker
    players: Mapping[str, Policy]
    referees: Mapping[str, Referee]
    update: Update
    rollout: Callable[[Game, Matchmaker, int, int, str], list[Episode]]
    evaluation: Any

    @property
    def learner(self) -> Policy:
        """The player that learns."""
        return self.players["learner"]
