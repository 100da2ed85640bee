"""Scripted players: teachers, rules, lists of answers."""

from collections.abc import Callable, Mapping, Sequence

from selfplay.core import Ask, Player, Reply, SelfplayError, option_index
from selfplay.games.preferences import CHOSEN, REJECTED
from selfplay.tasks.task import Task, demonstration, rejected


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


class Pair(Player):
    """Gives the chosen or the rejected reply to a task's question, as the system message of `game=preferences` asks.

    Args:
        task: a task with demonstrations and rejected replies.

    Raises (when acting):
        SelfplayError: the ask is not one of that game, or the task has no such reply.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(self._text(ask)) for ask in asks]

    def _text(self, ask: Ask) -> str:
        which = ask.messages[0]["content"] if len(ask.messages) == 2 else ""
        if which not in (CHOSEN, REJECTED):
            raise SelfplayError(
                f"the teacher of game=preferences was asked '{ask.prompt[:80]}' without saying which reply, "
                f"{CHOSEN} or {REJECTED}; use it in that game only"
            )
        return (demonstration if which == CHOSEN else rejected)(ask.prompt, self.task)


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
