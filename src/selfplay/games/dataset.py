"""The data-driven baseline as a game against Nature: Nature samples a question, the Solver answers it G times."""

from selfplay.core import Ask, Episode, Game, Play, at_least, score, user
from selfplay.options import Count, NotNegative


class Dataset(Game):
    """Nature (the player in the seat "chance") samples a question; the Solver earns R + w Q for each of G answers.

    Args:
        answers: G, answers per question.
        quality_weight: w, the weight of the quality relative to the reward.
    """

    roles = ("chance", "solver")
    judged = ("solver",)

    def __init__(self, answers: Count = 8, quality_weight: NotNegative = 1.0) -> None:
        at_least(1, answers=answers)
        self.answers, self.quality_weight = answers, quality_weight

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        yield [Ask("solver", user(question.text), group=0)] * self.answers
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        _, *solvers = episode.turns
        return [0.0, *(score(t, "reward") + self.quality_weight * t.scores.get("quality", 0.0) for t in solvers)]
