"""Imitation data as a game: a teacher and, optionally, the Solver answer the same question."""

from selfplay.core import Ask, Episode, Game, Play, at_least, score, user
from selfplay.options import NotNegative, Whole


class Demonstrations(Game):
    """Nature samples a question; the teacher answers it once and the Solver `answers` times, independently.

    The teacher's payoff is 0; the Solver earns R + w Q, as in `selfplay.games.dataset`.

    Args:
        answers: the Solver's answers per question; 0 omits the role "solver".
        quality_weight: w, the weight of the quality relative to the reward.
    """

    judged = ("solver",)

    def __init__(self, answers: Whole = 1, quality_weight: NotNegative = 1.0) -> None:
        at_least(0, answers=answers)
        self.answers, self.quality_weight = answers, quality_weight
        self.roles = ("chance", "teacher", "solver") if answers else ("chance", "teacher")

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        messages = user(question.text)
        yield [Ask("teacher", messages, group=0), *[Ask("solver", messages, group=0)] * self.answers]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        _, _, *solvers = episode.turns
        return [0.0, 0.0, *(score(t, "reward") + self.quality_weight * t.scores.get("quality", 0.0) for t in solvers)]
