"""Language Self-Play (arXiv 2509.07414): one model asks, the same model answers."""

from selfplay.core import Ask, Episode, Game, Play, at_least, score, user
from selfplay.games.challenger_pay import ChallengerPay


class LSP(Game):
    """The Challenger writes a question, the Solver answers it G times.

    The Solver earns R + w Q for each answer, the Challenger what `pay` makes of all G: in the paper -V + w V_Q
    (section 1.5; with w = 0 this is the zero-sum LSP-Zero, equations 1-3). Both advantages are pay-offs minus the mean
    of their group: answers to one question are one group, all questions of a step are another.

    Args:
        challenge: the Challenger's role prompt; the Solver has none.
        answers: G, answers a question.
        pay: what the Challenger earns.
        quality_weight: w, the weight of the quality against the reward (the paper adds them as they are: 1).
    """

    roles = ("challenger", "solver")
    judged = ("solver",)

    def __init__(self, challenge: str, answers: int, pay: ChallengerPay, quality_weight: float) -> None:
        at_least(1, answers=answers)
        self.challenge, self.answers, self.pay, self.quality_weight = challenge, answers, pay, quality_weight

    def play(self) -> Play:
        [question] = yield [Ask("challenger", user(self.challenge))]
        yield [Ask("solver", user(question.text), group=0)] * self.answers
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        challenger, *solvers = episode.turns
        rewards = [score(turn, "reward") for turn in solvers]
        qualities = [self.quality_weight * turn.scores.get("quality", 0.0) for turn in solvers]
        replies = [turn.reply.text for turn in solvers]
        asked = self.pay(rewards, qualities, replies, challenger.scores.get("invalid", 0.0) > 0)
        return [asked, *(r + q for r, q in zip(rewards, qualities, strict=True))]
