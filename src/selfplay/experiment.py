"""The components of a run; `selfplay.building.build` creates them from a config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.core import Adaptive, Episode, Game, Policy, Referee, Update
from selfplay.opponents.matchmaker import LEARNER, Matchmaker
from selfplay.trainee import Trainee


@dataclass(frozen=True)
class Experiment:
    """The components of a run: game, players, referees, update and evaluation.

    Attributes:
        game: the rules.
        opponent: assigns players to roles in each episode; holds all players by name.
        players: "learner" and "reference", for the referees; of each further learner <name> and <name>@start.
        referees: score name -> referee.
        rollout: (game, opponent, step, episodes, key) -> a step's episodes, see `selfplay.enumeration`.
        evaluation: experiment -> an evaluation, see `selfplay.evaluations`; or None.
        trainees: name -> a learner and its update. "learner" is the first; opponent rules may restart it.
    """

    game: Game
    opponent: Matchmaker
    players: Mapping[str, Policy]
    referees: Mapping[str, Referee]
    rollout: Callable[[Game, Matchmaker, int, int, str], list[Episode]]
    evaluation: Any
    trainees: Mapping[str, Trainee]

    def before(self, step: int) -> None:
        """Prepare a step: restart or swap the learner if the opponent rule says so, then let adaptive players adapt."""
        self.trainee.follow(self.opponent.before(step), self.opponent.main)
        for player in self.adaptive.values():
            player.before(step, self.opponent.players)

    def play(self, step: int, episodes: int, key: str) -> list[Episode]:
        """The episodes of a step; see `rollout`."""
        return self.rollout(self.game, self.opponent, step, episodes, key)

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Finish a step: give the results to the opponent rule and to adaptive players; return their metrics.

        The learner is changed as the opponent rule says.
        """
        metrics = self.opponent.after(step, episodes)
        for player in self.adaptive.values():
            metrics |= player.after(step, episodes)
        self.trainee.follow(self.opponent.then(step))
        return metrics

    @property
    def adaptive(self) -> dict[str, Adaptive]:
        """The players that change between steps, by name."""
        return {name: player for name, player in self.opponent.players.items() if isinstance(player, Adaptive)}

    @property
    def trainee(self) -> Trainee:
        """The first learner with its update."""
        return self.trainees[LEARNER]

    @property
    def others(self) -> dict[str, Trainee]:
        """The further learners with their updates, by name."""
        return {name: trainee for name, trainee in self.trainees.items() if name != LEARNER}

    @property
    def learner(self) -> Policy:
        """The first learner."""
        return self.trainee.learner

    @property
    def update(self) -> Update:
        """The first learner's learning rule."""
        return self.trainee.update
