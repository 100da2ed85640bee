"""What a task is: questions to train on, questions to be judged by, and the truth about answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Item:
    """A question and what is known of it.

    Attributes:
        question: the text, as a player is asked.
        answer: a right answer where one is known as text, else "".
        labels: what it belongs to, by which accuracy is told, too: for example {"families": "add", "levels": "2"}.
        demonstration: a whole reply to learn from, where it is more than `answer` (a solution, an essay), or "".
    """

    question: str
    answer: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    demonstration: str = ""


class Task(ABC):
    """Questions with a truth. Every method is a function of its arguments alone: the same luck, the same question.

    Attributes:
        judges: whether `correct` can say anything; False where nobody knows the answers.
    """

    judges: bool = True

    @abstractmethod
    def draw(self, rng: Random) -> str:
        """A question to train on, never one of the held-out ones."""

    @abstractmethod
    def held_out(self) -> Sequence[Item]:
        """The questions to be judged by, always the same."""

    @abstractmethod
    def item(self, question: str) -> Item | None:
        """What is known of a question; None where the task does not know it, so that no answer can be judged."""

    @abstractmethod
    def correct(self, item: Item, reply: str) -> float:
        """How right a reply is, from 0 to 1.

        Raises:
            SelfplayError: nobody knows (`judges` is False).
        """


def drawing(task: Task) -> Callable[[Random], str]:
    """How Nature draws a task's questions."""
    return task.draw
