"""What a run is made of, ready to be played; `selfplay.building` makes one from a config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.core import Episode, Game, Policy, Referee, Update
from selfplay.opponents.matchmaker import Matchmaker
from selfplay.trainee import Trainee


@dataclass(frozen=True)
class Experiment:
    """What a run is made of: a game, those who play and score it, an update, an evaluation.

    Attributes:
        opponent: who sits where, episode by episode; it knows all players by name.
        players: "learner" and "reference", for the referees.
        referees: score name -> referee.
        rollout: (game, opponent, step, episodes, key) -> a step's episodes, see `selfplay.enumeration`.
        evaluation: experiment -> an evaluation, see `selfplay.evaluations`; or None.
        trainee: the learner and its update, as opponent rules may let them begin anew.
    """

    game: Game
    opponent: Matchmaker
    players: Mapping[str, Policy]
    referees: Mapping[str, Referee]
    update: Update
    rollout: Callable[[Game, Matchmaker, int, int, str], list[Episode]]
    evaluation: Any

    trainee: Trainee

    def before(self, step: int) -> None:
        """Make ready for a step: the learner changes as the opponent rule says."""
        self.trainee.follow(self.opponent.before(step), self.opponent.main)

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, Any]:
        """End a step: the opponent rule takes note of the results, and the learner changes as it says."""
        metrics = self.opponent.after(step, episodes)
        self.trainee.follow(self.opponent.then(step))
        return metrics

    @property
    def learner(self) -> Policy:
        """The player that learns."""
        return self.players["learner"]
