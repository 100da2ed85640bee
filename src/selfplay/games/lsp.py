"""Language Self-Play (arXiv 2509.07414) and, without a quality score, its zero-sum form LSP-Zero."""

import re

from selfplay.core import Ask, Episode, Game, Play, SelfplayError, at_least, score, user
from selfplay.games.challenger_rewards import ChallengerPay
from selfplay.options import Count, Name, NotNegative

SPARK = "{spark}"
START, END = r"\[\s*start generation\s*\]", r"\[\s*end generation\s*\]"  # around a template in the paper's prompt


class LSP(Game):
    """The Challenger writes a question, the Solver answers it G times.

    The Solver earns R + w Q for each answer, the Challenger what `pay` makes of all G: in the paper -V + w V_Q
    (section 1.5; with w = 0 this is the zero-sum LSP-Zero, equations 1-3). Both advantages are pay-offs minus the mean
    of their group: answers to one question are one group, all questions of a step are another.

    Where the challenge has a {spark}, Nature fills it in before each question. (Not in the paper, whose prompt is the
    same for all questions; a small model then soon asks the same.)

    Args:
        challenge: the Challenger's role prompt, with {task}, {template} and {spark} where it takes them; the Solver has
            none.
        task: what the questions are about; None leaves it to the Challenger ("None" in the paper's prompt).
        template: the form of a question, with {placeholders} that the Challenger fills in; None is none.
        answers: G, answers a question.
        pay: what the Challenger earns.
        quality_weight: w, the weight of the quality against the reward (the paper adds them as they are: 1).

    Raises:
        SelfplayError: a task or a template that the challenge has no place for.
    """

    judged = ("solver",)

    def __init__(
        self,
        challenge: Name,
        task: str | None,
        template: str | None,
        answers: Count,
        pay: ChallengerPay,
        quality_weight: NotNegative,
    ) -> None:
        at_least(1, answers=answers)
        parts = _filled(challenge, {"task": task, "template": template})
        self.roles = ("chance", "challenger", "solver") if len(parts) > 1 else ("challenger", "solver")
        self.parts, self.challenge = parts, SPARK.join(parts)
        self.answers, self.pay, self.quality_weight = answers, pay, quality_weight

    def play(self) -> Play:
        challenge = self.challenge
        if "chance" in self.roles:
            [spark] = yield [Ask("chance")]
            challenge = spark.text.join(self.parts)
        [written] = yield [Ask("challenger", user(challenge))]
        yield [Ask("solver", user(question(written.text)), group=0)] * self.answers
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        *chance, challenger = episode.turns[: len(self.roles) - 1]
        solvers = episode.turns[len(self.roles) - 1 :]
        rewards = [score(turn, "reward") for turn in solvers]
        qualities = [self.quality_weight * turn.scores.get("quality", 0.0) for turn in solvers]
        replies = [turn.reply.text for turn in solvers]
        asked = self.pay(rewards, qualities, replies, challenger.scores.get("invalid", 0.0) > 0)
        return [*(0.0 for _ in chance), asked, *(r + q for r, q in zip(rewards, qualities, strict=True))]


def question(written: str) -> str:
    """What the Solver is asked: the Challenger's reply without the generation tags that it was told to leave out.

    Of a reply that holds [Start Generation], what is between its last one and the [End Generation] after that; a tag
    alone is taken away. A reply without tags is asked as it is, to the letter.
    """
    inner = re.split(START, written, flags=re.IGNORECASE)[-1]
    inner = re.split(END, inner, flags=re.IGNORECASE)[0]
    return written if inner == written else inner.strip()


def _filled(challenge: str, values: dict[str, str | None]) -> list[str]:
    """The prompt with its values, in parts between which the spark comes; no value can act as a placeholder."""
    for name, value in values.items():
        if value is not None and f"{{{name}}}" not in challenge:
            raise SelfplayError(
                f"game.{name} is '{value}', but the Challenger's prompt has no {{{name}}}; take prompts=paper, or "
                "write it into game.challenge"
            )
    return [
        re.sub(r"\{(task|template)\}", lambda match: str(values[match[1]]), part) for part in challenge.split(SPARK)
    ]
