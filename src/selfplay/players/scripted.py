"""A player who knows what to say: a teacher, a rule, a list of answers."""

from collections.abc import Callable, Mapping, Sequence

from selfplay.core import Ask, Player, Reply, SelfplayError, option_index
from selfplay.tasks.task import Task


class Scripted(Player):
    """Says what a function of the last message says, where there are options one of them.

    Args:
        answer: what was said to it last -> its reply.

    Raises (when acting):
        SelfplayError: `answer` does, or gives none of the ask's options.
    """

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(self._say(ask)) for ask in asks]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        places = [option_index(ask, self._say(ask)) for ask in asks]
        return [
            tuple(float(i == place) for i in range(len(ask.options))) for ask, place in zip(asks, places, strict=True)
        ]

    def _say(self, ask: Ask) -> str:
        text = self.answer(ask.prompt)
        if ask.options:
            option_index(ask, text)
        return text


def known(question: str, answers: Mapping[str, str]) -> str:
    """The answer that a list has.

    Raises:
        SelfplayError: it has none.
    """
    if question not in answers:
        raise SelfplayError(
            f"the list of {len(answers)} answers has none to '{question}'; add it, or ask only what it holds"
        )
    return answers[question]


def right(question: str, task: Task) -> str:
    """How a task's question is answered: its demonstration, or where there is none its right answer.

    Raises:
        SelfplayError: the task does not know the question, or neither of the two as a text.
    """
    item = task.item(question)
    if item is None or not (item.demonstration or item.answer):
        what = "no question of" if item is None else "a question without an answer in"
        raise SelfplayError(
            f"'{question[:80]}' is {what} task {type(task).__name__}, "
            "so no teacher can answer it; take a task with answers"
        )
    return item.demonstration or item.answer
