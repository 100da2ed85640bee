"""Context distillation as a game: answer behind examples, learn the answer without them."""

from selfplay.core import Ask, Episode, Game, Message, Play, at_least, user
from selfplay.options import Count


class FewShot(Game):
    """Nature samples `shots` + 1 questions; a teacher answers all but the last, which the Solver answers behind these.

    Updates learn the Solver's answers behind the bare question (`Ask.learnt_prompt`): what the examples bring to the
    model moves into its weights, as in SOFT and in context distillation (Snell et al. 2022, 2209.15189). The Solver
    earns its "reward", or 1 for each answer if there is no reward, so that `keep=paid` learns all of them.

    Args:
        shots: number of examples.
        answers: the Solver's answers per question, each behind the same examples.
    """

    roles = ("chance", "teacher", "solver")
    judged = ("solver",)

    def __init__(self, shots: Count = 4, answers: Count = 1) -> None:
        at_least(1, **{"game.shots": shots, "game.answers": answers})
        self.shots, self.answers = shots, answers

    def play(self) -> Play:
        *examples, question = yield [Ask("chance")] * (self.shots + 1)
        shown = yield [Ask("teacher", user(example.text)) for example in examples]
        messages: tuple[Message, ...] = ()
        for example, answer in zip(examples, shown, strict=True):
            messages += (*user(example.text), {"role": "assistant", "content": answer.text})
        bare = user(question.text)
        yield [Ask("solver", (*messages, *bare), group=0, learnt_prompt=bare)] * self.answers
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return [turn.scores.get("reward", 1.0) if turn.ask.role == "solver" else 0.0 for turn in episode.turns]
