"""A scripted player, such as a teacher, a rule or a list of answers."""

from collections.abc import Callable, Mapping, Sequence

from selfplay.core import Ask, Player, Reply, SelfplayError, option_index
from selfplay.tasks.task import Task, demonstration


class Scripted(Player):
    """Replies with a function of the last message.

    Args:
        answer: maps the last message to the reply; if the ask has options, to one of them.

    Raises (when acting):
        SelfplayError: raised by `answer`, or its reply is not one of the options.
    """

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(self._text(ask)) for ask in asks]

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        places = [option_index(ask, self._text(ask)) for ask in asks]
        return [
            tuple(float(i == place) for i in range(len(ask.options))) for ask, place in zip(asks, places, strict=True)
        ]

    def _text(self, ask: Ask) -> str:
        text = self.answer(ask.prompt)
        if ask.options:
            option_index(ask, text)
        return text


def known(question: str, answers: Mapping[str, str]) -> str:
    """Look up the answer to a question.

    Raises:
        SelfplayError: there is no answer to it.
    """
    if question not in answers:
        raise SelfplayError(
            f"the list of {len(answers)} answers has none to '{question}'; add it, or ask only listed questions"
        )
    return answers[question]


def right(question: str, task: Task) -> str:
    """The answer to a task's question, see `selfplay.tasks.task.demonstration`.

    Raises:
        SelfplayError: the task does not have the question, or the question has no answer as a text.
    """
    return demonstration(question, task)
