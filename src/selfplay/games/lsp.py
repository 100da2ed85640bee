"""Language Self-Play (arXiv 2509.07414) and its zero-sum form without a quality score, LSP-Zero."""

import re

from selfplay.core import Ask, Episode, Game, Play, SelfplayError, at_least, score, user
from selfplay.games.challenger_rewards import ChallengerPay, lsp
from selfplay.options import Count, Name, NotNegative
from selfplay.thoughts import question

SPARK = "{spark}"


class LSP(Game):
    """The Challenger writes a question, and the Solver answers it G times.

    The Solver earns R + w Q for each answer. The Challenger earns `pay` of all G answers: -V + w V_Q in the paper
    (section 1.5; with w = 0 this is the zero-sum LSP-Zero, equations 1-3). Advantages are payoffs minus their group
    mean: the answers to one question form a group, and so do all questions of a step.

    If the challenge contains {spark}, Nature replaces it before each question. (An extension: the paper uses the same
    prompt for all questions, from which a small model soon repeats itself.)

    Args:
        challenge: the Challenger's prompt, with optional placeholders {task}, {template} and {spark}; the Solver's
            prompt is the question alone.
        task: topic of the questions; None leaves it to the Challenger ("None" in the paper's prompt).
        template: form of a question, with {placeholders} that the Challenger fills in; None for no template.
        answers: G, answers per question.
        pay: the Challenger's payoff function, see `selfplay.games.challenger_rewards`.
        quality_weight: w, the weight of the quality relative to the reward (1 in the paper).
        novelty_weight: the weight of the question's "novelty" score in the Challenger's payoff, if a referee gives one
            (+reward@probes.novelty=novelty); 0 in the paper.

    Raises:
        SelfplayError: a task or a template is given, but the challenge has no placeholder for it.
    """

    judged = ("solver",)

    def __init__(
        self,
        challenge: Name,
        task: str | None = None,
        template: str | None = None,
        answers: Count = 8,
        pay: ChallengerPay = lsp,
        quality_weight: NotNegative = 1.0,
        novelty_weight: NotNegative = 0.0,
    ) -> None:
        at_least(1, answers=answers)
        parts = _filled(challenge, {"task": task, "template": template})
        self.roles = ("chance", "challenger", "solver") if len(parts) > 1 else ("challenger", "solver")
        self.parts, self.challenge = parts, SPARK.join(parts)
        self.answers, self.pay = answers, pay
        self.quality_weight, self.novelty_weight = quality_weight, novelty_weight

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
        if self.novelty_weight:
            asked += self.novelty_weight * score(challenger, "novelty")
        return [*(0.0 for _ in chance), asked, *(r + q for r, q in zip(rewards, qualities, strict=True))]


def _filled(challenge: str, values: dict[str, str | None]) -> list[str]:
    """Fill in the prompt and split it at {spark}; placeholders inside a value are not expanded."""
    for name, value in values.items():
        if value is not None and f"{{{name}}}" not in challenge:
            raise SelfplayError(
                f"game.{name} is '{value}', but the Challenger's prompt has no {{{name}}}; use prompts=paper, or "
                "add the placeholder to game.challenge"
            )
    return [
        re.sub(r"\{(task|template)\}", lambda match: str(values[match[1]]), part) for part in challenge.split(SPARK)
    ]
