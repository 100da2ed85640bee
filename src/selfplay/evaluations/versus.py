"""The policy's return against a fixed player, for games that cannot be enumerated."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from selfplay.core import SelfplayError, at_least
from selfplay.opponents.matchmaker import check_learner_roles, rotated
from selfplay.opponents.table import earned, results
from selfplay.options import Name, Period, Range, Seed
from selfplay.rollout import play, score_and_pay
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class Versus:
    """The learner's mean return and win rate against one player, with rotating roles and 95 % intervals over the games.

    The return's interval assumes that returns lie between the lowest and the highest one of any player in these games
    (`theory.intervals.bounded`); there is none if all are equal. The win rate's interval is that of games won minus
    games lost (`theory.intervals.change`).

    Args:
        name: "reference" for the learner before the first step, or a player of the config's `players`.
        episodes: games per evaluation, with the same random seeds each time.
        every: steps between evaluations; one always runs before the first step and one after the last.
        seed: random seed of the games.

    Raises (when called):
        SelfplayError: no player has this name, or the learner has fewer than two roles.
    """

    def __init__(
        self,
        name: Name = "reference",
        episodes: Annotated[int, Range(2, 1_000_000)] = 128,
        every: Period = 20,
        seed: Seed = 0,
    ) -> None:
        at_least(2, episodes=episodes)
        at_least(1, every=every)
        self.name, self.episodes, self.every, self.seed = name, episodes, every, seed

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        opponent = experiment.opponent
        check_learner_roles(opponent.learner_roles)
        if self.name not in opponent.players:
            raise SelfplayError(
                f"eval.name is '{self.name}', but the players are {', '.join(opponent.players)}; choose one of them"
            )
        players = {**opponent.players, "learner": opponent.main}
        episodes = play(
            experiment.game,
            players,
            range(self.episodes),
            f"{self.seed}/versus",
            lambda index: rotated(opponent.seated, opponent.learner_roles, index, lambda role: self.name),
        )
        score_and_pay(experiment.game, episodes, experiment.referees, experiment.players)
        gained, signed, paid = [], [], []
        for episode in episodes:
            mine = [r for r in results(episode, opponent.learner_roles) if r[:2] == ("learner", self.name)]
            gained.append(fmean(r[2] for r in mine))  # more than two roles give several results per game
            signed.append(2 * fmean(r[3] for r in mine) - 1)
            paid += [earned(episode)[role] for role in opponent.learner_roles]
        better, worse = sum(max(x, 0.0) for x in signed), sum(max(-x, 0.0) for x in signed)
        low, high = intervals.change(better, worse, len(signed))
        return {
            "return": fmean(gained),
            "interval": intervals.as_list(intervals.bounded(gained, min(paid), max(paid))),
            "win_rate": 0.5 + fmean(signed) / 2,
            "win_rate_interval": intervals.as_list((0.5 + low / 2, 0.5 + high / 2)),
            "games": len(gained),
        }

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return {k: float(after[k]) - float(before[k]) for k in ("return", "win_rate")}  # type: ignore[arg-type]
