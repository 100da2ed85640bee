"""The preference game of SPPO and Nash-MD: two roles answer the same question, and the better answer wins."""

from statistics import fmean

import torch

from selfplay.core import Ask, Episode, Game, Play, Turn, at_least, score, user
from selfplay.options import Count, NotNegative


class Contest(Game):
    """Two roles answer a question sampled by Nature, G times each; an answer earns its win probability minus 1/2.

    The win probability P(y > y') = sigmoid(r(y) - r(y')), with r = R + w Q, is averaged over the other role's answers.
    The game is symmetric and zero-sum.

    Args:
        answers: G, answers per question and role.
        quality_weight: w, the weight of the quality relative to the reward.
    """

    roles = ("chance", "first", "second")
    judged = ("first", "second")

    def __init__(self, answers: Count = 4, quality_weight: NotNegative = 1.0) -> None:
        at_least(1, answers=answers)
        self.answers, self.quality_weight = answers, quality_weight

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        messages = user(question.text)
        yield [Ask(role, messages, group=0) for role in ("first", "second") for _ in range(self.answers)]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        _, *answers = episode.turns
        first, second = ([self._worth(t) for t in part] for part in (answers[: self.answers], answers[self.answers :]))
        return [0.0, *(_wins(x, second) for x in first), *(_wins(x, first) for x in second)]

    def _worth(self, turn: Turn) -> float:
        return score(turn, "reward") + self.quality_weight * turn.scores.get("quality", 0.0)


def _wins(worth: float, others: list[float]) -> float:
    return fmean(torch.sigmoid(worth - torch.tensor(others, dtype=torch.float64)).tolist()) - 0.5
