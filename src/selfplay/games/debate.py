"""Debate before a referee (Irving, Christiano, Amodei 2018, arXiv 1805.00899)."""

from collections.abc import Sequence
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Message, Play, at_least, score, user
from selfplay.options import Range


class Debate(Game):
    """Chance draws a question; "first" and "second" answer it in turn, each having read all that was said before.

    A debater is paid the "reward" score of its own last statement minus that of the other's, for every statement that
    it made: zero-sum, so what pays is to be judged better than the other. Its last message is always the bare question,
    so that every referee of answers can judge a statement; what was said before it stands above it, as a dialogue in
    which user and assistant alternate (many chat templates insist on it).

    Args:
        rounds: statements a debater.
        other: what stands before a statement of the other's; before one's own stands the question.
    """

    roles = ("chance", "first", "second")
    judged = ("first", "second")

    def __init__(
        self, rounds: Annotated[int, Range(1, 1000)] = 2, other: str = "What does the other debater say?"
    ) -> None:
        at_least(1, rounds=rounds)
        self.rounds, self.other = rounds, other

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        said: list[tuple[str, str]] = []  # by whom, what
        for role in self.judged * self.rounds:
            [statement] = yield [Ask(role, self._view(role, question.text, said))]
            said.append((role, statement.text))
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        *_, first, second = (score(turn, "reward") for turn in episode.turns[1:])
        paid = {"chance": 0.0, "first": first - second, "second": second - first}
        return [paid[turn.ask.role] for turn in episode.turns]

    def _view(self, role: str, question: str, said: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
        messages: list[Message] = []
        for speaker, statement in said:
            messages += user(question if speaker == role else self.other)
            messages.append({"role": "assistant", "content": statement})
        return (*messages, *user(question))
