"""Debate before a referee (Irving, Christiano, Amodei 2018, arXiv 1805.00899)."""

from collections.abc import Sequence
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Message, Play, at_least, score, user
from selfplay.options import Range


class Debate(Game):
    """Chance samples a question; "first" and "second" alternate in making statements and see all earlier ones.

    Each statement of a debater is paid the "reward" score of its own last statement minus that of the opponent's last
    statement, which makes the game zero-sum. The last message is always the bare question, so any referee of answers
    can judge a statement. Earlier statements precede it as a dialogue with alternating user and assistant messages,
    which many chat templates require.

    Args:
        rounds: statements per debater.
        other: the user message before each statement of the opponent; the question precedes own statements.
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
        history: list[tuple[str, str]] = []  # (role, statement)
        for role in self.judged * self.rounds:
            [statement] = yield [Ask(role, self._view(role, question.text, history))]
            history.append((role, statement.text))
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        *_, first, second = (score(turn, "reward") for turn in episode.turns[1:])
        paid = {"chance": 0.0, "first": first - second, "second": second - first}
        return [paid[turn.ask.role] for turn in episode.turns]

    def _view(self, role: str, question: str, history: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
        messages: list[Message] = []
        for speaker, statement in history:
            messages += user(question if speaker == role else self.other)
            messages.append({"role": "assistant", "content": statement})
        return (*messages, *user(question))
