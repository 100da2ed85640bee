"""What the policy earns against a fixed player, for games that cannot be enumerated."""

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
    """The mean return of the learner against somebody, its roles in turns, with 95 % intervals over the games.

    The interval of the return takes what anybody earned least and most in these games for the bounds of a return
    (`theory.intervals.bounded`); where all earned the same, nothing is known of its spread, and there is none. That of
    the win rate is of games won less games lost (`theory.intervals.change`).

    Args:
        name: "reference" for the learner as it was before the first step, or a player of the config's `players`.
        episodes: games an evaluation; the same luck each time.
        every: steps between evaluations (there is always one before the first and one after the last step).
        seed: of the luck.

    Raises (when called):
        SelfplayError: nobody has this name, or the learner has no role to spare.
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
            raise SelfplayError(f"eval.name is '{self.name}', but the players are {', '.join(opponent.players)}")
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
            gained.append(
                fmean(r[2] for r in mine)
            )  # several where there are more than two roles: one game all the same
            signed.append(2 * fmean(r[3] for r in mine) - 1)
            paid += [earned(episode)[role] for role in opponent.learner_roles]
        better, worse = sum(max(x, 0.0) for x in signed), sum(max(-x, 0.0) for x in signed)
        low, high = intervals.change(better, worse, len(signed))
        return {
            "return": fmean(gained),
            "interval": intervals.told(intervals.bounded(gained, min(paid), max(paid))),
            "win_rate": 0.5 + fmean(signed) / 2,
            "win_rate_interval": intervals.told((0.5 + low / 2, 0.5 + high / 2)),
            "games": len(gained),
        }

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return {k: float(after[k]) - float(before[k]) for k in ("return", "win_rate")}  # type: ignore[arg-type]
