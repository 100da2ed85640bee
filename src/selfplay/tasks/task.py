"""The interface of tasks: training questions, held-out questions and ground truth for answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selfplay.errors import SelfplayError
from selfplay.thoughts import said


@dataclass(frozen=True)
class Item:
    """A question with its ground truth.

    Attributes:
        question: the text, as a player sees it.
        answer: a correct answer as text, or "" if unknown.
        labels: categories by which accuracy is also reported, for example {"families": "add", "levels": "2"}.
        demonstration: a full reply to learn from, if it differs from `answer` (a solution, an essay), else "".
        rejected: a reply that is worse than the demonstration, to learn the preference from, else "".
        columns: everything that the source has on the question, by name, for reward functions.
    """

    question: str
    answer: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    demonstration: str = ""
    rejected: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """Questions with ground truth. Every method is a pure function of its arguments, including the RNG state.

    Attributes:
        judges: whether `correct` is available; False if the answers are unknown.
    """

    judges: bool = True

    @abstractmethod
    def draw(self, rng: Random) -> str:
        """Sample a training question, never a held-out one."""

    @abstractmethod
    def held_out(self) -> Sequence[Item]:
        """The held-out questions, always the same."""

    def holds_out(self, question: str) -> bool:
        """Whether a question, whoever asked it, must not be trained on: it is held out, or another wording of one."""
        return any(item.question == question for item in self.held_out())

    @abstractmethod
    def item(self, question: str) -> Item | None:
        """Look up a question; None if it is unknown to the task, so that no answer can be judged."""

    @abstractmethod
    def correct(self, item: Item, reply: str) -> float:
        """The correctness of a reply, from 0 to 1.

        Raises:
            SelfplayError: the answers are unknown (`judges` is False).
        """

    def wordings(self, question: str) -> Sequence[str]:
        """The ways to ask a question, itself among them, with equal answers."""
        return (question,)

    def answer_in(self, reply: str) -> str:
        """The answer in a reply, in a form that is equal for equal answers; "" if there is none. Used for votes."""
        return " ".join(said(reply).split())


def demonstration(question: str, task: Task) -> str:
    """The answer to a task's question: its demonstration if there is one, else its correct answer.

    Raises:
        SelfplayError: the task does not have the question, or the question has no answer as a text.
    """
    item = task.item(question)
    if item is None or not (item.demonstration or item.answer):
        what = "not a question of" if item is None else "a question without an answer in"
        raise SelfplayError(
            f"'{question[:80]}' is {what} task {type(task).__name__}, "
            "so a teacher cannot answer it; take a task with answers"
        )
    return item.demonstration or item.answer


def rejected(question: str, task: Task) -> str:
    """The rejected reply to a task's question.

    Raises:
        SelfplayError: the task has none.
    """
    item = task.item(question)
    if item is None or not item.rejected:
        raise SelfplayError(
            f"task {type(task).__name__} has no rejected reply to '{question[:80]}'; use task=preferences, or name the "
            "field with task.rejected"
        )
    return item.rejected


def drawing(task: Task) -> Callable[[Random], str]:
    """A function for Nature that samples the task's training questions."""
    return task.draw
