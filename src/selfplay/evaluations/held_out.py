"""Accuracy on held-out questions: play without an update, with the task's verifier as the referee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from selfplay.core import Policy, SelfplayError, at_least
from selfplay.games.dataset import Dataset
from selfplay.options import Period, Range
from selfplay.players.nature import Deal
from selfplay.referees.verifier import Verifier
from selfplay.rollout import play, score_and_pay
from selfplay.tasks.task import Item, Task
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


@dataclass(frozen=True)
class Score:
    """Correctness of the answers to a list of questions.

    Attributes:
        correct: one flag per question: whether the answer is fully correct.
        items: the questions.
    """

    correct: tuple[bool, ...]
    items: tuple[Item, ...]

    def summary(self) -> dict[str, object]:
        """Accuracy with a 95 % interval, overall and by each label, and the flags as a string of 0 and 1."""
        labels = dict.fromkeys(k for item in self.items for k in item.labels)
        cells = {label: self._by(label) for label in labels}
        found: dict[str, object] = {
            "accuracy": fmean(self.correct),
            "interval": _interval(self.correct),
            "questions": len(self.correct),
            **{label: {value: fmean(cell) for value, cell in of.items()} for label, of in cells.items()},
            "correct": "".join(str(int(c)) for c in self.correct),
        }
        if labels:
            found["intervals"] = {label: {v: _interval(cell) for v, cell in of.items()} for label, of in cells.items()}
        return found

    def _by(self, label: str) -> dict[str, list[bool]]:
        cells: dict[str, list[bool]] = {}
        for item, correct in zip(self.items, self.correct, strict=True):
            if label in item.labels:
                cells.setdefault(item.labels[label], []).append(correct)
        return cells


def _interval(correct: Sequence[bool]) -> list[float] | None:
    return intervals.as_list(intervals.share(sum(correct), len(correct)))


class HeldOut:
    """Accuracy on a task's held-out questions.

    Args:
        task: see `selfplay.tasks`.
        temperature: sampling temperature of the answers; 0 is greedy.
        every: steps between evaluations; one always runs before the first step and one after the last.

    Raises:
        SelfplayError: the temperature is negative, or the task has no held-out questions or no ground truth.
    """

    def __init__(self, task: Task, temperature: Annotated[float, Range(0, 100)] = 0.0, every: Period = 20) -> None:
        at_least(1, every=every)
        if temperature < 0:
            raise SelfplayError(f"eval.temperature is {temperature}; use 0 for greedy answers, or a positive number")
        self.temperature, self.every = temperature, every
        self.task, self.items = task, tuple(task.held_out())
        if not task.judges:
            raise SelfplayError(f"{type(task).__name__} has no ground truth; use eval=win_rate or eval=none")
        if not self.items:
            raise SelfplayError(f"{type(task).__name__} has no held-out questions; add some, or use eval=none")
        self.nature = Deal([item.question for item in self.items])

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        return self.score(experiment.opponent.main).summary()

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return gain(before, after)

    def score(self, policy: Policy) -> Score:
        """Score the policy's answers to the held-out questions."""
        game, truth = Dataset(answers=1, quality_weight=0.0), Verifier(self.task)
        seats = {"chance": self.nature, "solver": policy.with_temperature(self.temperature)}
        episodes = play(game, seats, range(len(self.items)), key="eval")
        score_and_pay(game, episodes, {"reward": truth}, {})
        return Score(tuple(e.turns[1].scores["reward"] >= 1 for e in episodes), self.items)


def gain(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    """The change in accuracy on the same questions, with its paired 95 % interval (None for a single question)."""
    flags = list(zip(str(before["correct"]), str(after["correct"]), strict=True))
    better, worse = (sum(pair == newly for pair in flags) for newly in (("0", "1"), ("1", "0")))
    interval = intervals.as_list(intervals.change(better, worse, len(flags)))
    return {"gain": (better - worse) / len(flags), "interval": interval}
