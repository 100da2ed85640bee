"""Referees with a task's ground truth."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.tasks.task import Task


class Verifier(Referee):
    """The correctness of an answer, from 0 to 1, by the task's own checker.

    The score is also 0 if the prompt is not a valid question of the task; `Invalid` distinguishes the two cases.

    Args:
        task: see `selfplay.tasks`.

    Raises:
        SelfplayError: the task has no ground truth.
    """

    def __init__(self, task: Task) -> None:
        if not task.judges:
            raise SelfplayError(
                f"{type(task).__name__} has no ground truth for a verifier; use another reward, for example reward=rm, "
                "and set probes.truth=null"
            )
        self.task = task

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([self._right(turn.ask.prompt, turn.reply.text) for turn in turns])

    def _right(self, question: str, answer: str) -> float:
        item = self.task.item(question)
        return 0.0 if item is None else self.task.correct(item, answer)


class Invalid(Referee):
    """1 for a Challenger's turn that is not a valid question of the task, else 0.

    Args:
        task: see `selfplay.tasks`.
    """

    roles = ("challenger",)

    def __init__(self, task: Task) -> None:
        self.task = task

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(self.task.item(turn.reply.text) is None) for turn in turns])
