"""The likelihood of the right answers to a task's held-out questions."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from selfplay.core import Ask, Policy, Reply, SelfplayError, Turn, at_least, user
from selfplay.options import Count, Period
from selfplay.referees.surprisal import Surprisal
from selfplay.tasks.task import Task, demonstration
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class Likelihood:
    """The mean negative log-likelihood of demonstrations of a task's held-out questions, in nats per token: `nll`.

    Each question counts alike; its demonstration's end token is included. The distribution is that of the policy's
    sampling, with its temperature. `interval` is over questions.

    Args:
        task: see `selfplay.tasks`.
        every: steps between evaluations; one always runs before the first step and one after the last.
        batch_size: questions per forward pass.

    Raises:
        SelfplayError: the task has no held-out questions, or one of them has no answer as a text.
    """

    figure = "nll"  # what a sweep optimizes with this evaluation

    def __init__(self, task: Task, every: Period = 20, batch_size: Count = 384) -> None:
        at_least(1, every=every)
        self.every, self.items = every, tuple(task.held_out())
        if not self.items:
            raise SelfplayError(f"{type(task).__name__} has no held-out questions; add some, or use eval=none")
        self.answers = [demonstration(item.question, task) for item in self.items]
        self.surprisal = Surprisal("learner", batch_size=batch_size)

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        found = self.of(experiment.opponent.main)
        labels = dict.fromkeys(key for item in self.items for key in item.labels)
        return {
            "nll": fmean(found),
            "interval": intervals.as_list(intervals.student(found)),
            "questions": len(found),
            **{label: self._by(label, found) for label in labels},
        }

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return {"gain": float(after["nll"]) - float(before["nll"])}  # type: ignore[arg-type]

    def of(self, policy: Policy) -> list[float]:
        """The mean negative log-likelihood per token of each demonstration."""
        asks = [Ask("solver", user(item.question), key=f"likelihood/{i}") for i, item in enumerate(self.items)]
        turns = [Turn(ask, Reply(text), player="teacher") for ask, text in zip(asks, self.answers, strict=True)]
        found: list[float] = self.surprisal.score(turns, {"learner": policy}).tolist()
        return found

    def _by(self, label: str, found: list[float]) -> dict[str, float]:
        cells: dict[str, list[float]] = {}
        for item, value in zip(self.items, found, strict=True):
            if label in item.labels:
                cells.setdefault(item.labels[label], []).append(value)
        return {name: fmean(cell) for name, cell in cells.items()}
