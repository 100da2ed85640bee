"""Nature asks, a teacher answers; the Solver may answer, too. What is learnt of it is the update's affair."""

from selfplay.core import Ask, Episode, Game, Play, at_least, score, user
from selfplay.options import NotNegative, Whole


class Demonstrations(Game):
    """Nature draws a question, the teacher answers it once, the Solver `answers` times; they do not hear each other.

    The teacher is paid nothing; the Solver earns R + w Q, as in `selfplay.games.dataset`.

    Args:
        answers: the Solver's answers a question; 0 leaves out the role "solver".
        quality_weight: w, the weight of the quality against the reward.
    """

    judged = ("solver",)

    def __init__(self, answers: Whole = 1, quality_weight: NotNegative = 1.0) -> None:
        at_least(0, answers=answers)
        self.answers, self.quality_weight = answers, quality_weight
        self.roles = ("chance", "teacher", "solver") if answers else ("chance", "teacher")

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        said = user(question.text)
        yield [Ask("teacher", said, group=0), *[Ask("solver", said, group=0)] * self.answers]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        _, _, *solvers = episode.turns
        return [0.0, 0.0, *(score(t, "reward") + self.quality_weight * t.scores.get("quality", 0.0) for t in solvers)]
