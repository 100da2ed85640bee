"""The exact truth of a task."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.tasks.task import Task


class Verifier(Referee):
    """How right an answer is, 0 to 1, by the task's own check.

    No answer to something that the task does not know as a question can be right, so there it is 0, too; `Invalid`
    tells the two apart.

    Args:
        task: see `selfplay.tasks`.

    Raises:
        SelfplayError: the task knows no answers.
    """

    def __init__(self, task: Task) -> None:
        if not task.judges:
            raise SelfplayError(
                f"{type(task).__name__} knows no right answers, so no verifier can judge: use another reward, for "
                "example reward=rm, and set probes.truth=null"
            )
        self.task = task

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([self._right(turn.ask.prompt, turn.reply.text) for turn in turns])

    def _right(self, question: str, answer: str) -> float:
        item = self.task.item(question)
        return 0.0 if item is None else self.task.correct(item, answer)


class Invalid(Referee):
    """1 for a Challenger's turn that is no question of the task, else 0.

    Args:
        task: see `selfplay.tasks`.
    """

    roles = ("challenger",)

    def __init__(self, task: Task) -> None:
        self.task = task

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(self.task.item(turn.reply.text) is None) for turn in turns])
