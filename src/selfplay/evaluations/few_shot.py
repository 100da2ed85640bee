"""What examples in the prompt bring: accuracy behind them against accuracy without."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Annotated

from selfplay.core import Ask, Message, Policy, SelfplayError, at_least, user
from selfplay.evaluations.held_out import HeldOut, Score, gain
from selfplay.options import Count, Period, Range, Seed
from selfplay.tasks.task import Task, demonstration
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class FewShot:
    """Accuracy of greedy answers to a task's held-out questions, without examples (`accuracy`) and behind some.

    `few_shot` is the accuracy behind examples, `few_shot_gain` how much higher it is, with the interval of the paired
    change. With `least`, a run ends before it learns if the gain of the reference is smaller: then there is nothing to
    distil (the gate of SOFT).

    Args:
        task: see `selfplay.tasks`.
        shots: number of examples, training questions with their demonstrations, drawn anew for each question.
        least: the least gain at the start, from -1 to 1; None for no gate.
        every: steps between evaluations; one always runs before the first step and one after the last.
        seed: of the examples.

    Raises:
        SelfplayError: the task has no held-out questions or no ground truth. When evaluating: see `least`.
    """

    def __init__(
        self,
        task: Task,
        shots: Count = 4,
        least: Annotated[float, Range(-1, 1)] | None = None,
        every: Period = 20,
        seed: Seed = 0,
    ) -> None:
        at_least(1, **{"eval.shots": shots})
        self.plain, self.task, self.shots = HeldOut(task, every=every), task, shots
        self.least, self.every, self.seed, self._passed = least, every, seed, least is None

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        policy = experiment.opponent.main
        without, behind = self.plain.score(policy), self.score(policy)
        if not self._passed:
            start = experiment.players["reference"]
            self._check(*(self._accuracy(one) for one in (self.plain.score(start), self.score(start))))
        pairs = list(zip(without.correct, behind.correct, strict=True))
        better, worse = pairs.count((False, True)), pairs.count((True, False))
        return {
            **without.summary(),
            "few_shot": self._accuracy(behind),
            "few_shot_gain": (better - worse) / len(pairs),
            "few_shot_gain_interval": intervals.as_list(intervals.change(better, worse, len(pairs))),
        }

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return gain(before, after)

    def score(self, policy: Policy) -> Score:
        """Score the policy's answers behind examples."""
        player, items = policy.with_temperature(0.0), self.plain.items
        asks = [
            Ask("solver", (*self._examples(i), *user(item.question)), key=f"eval/few_shot/{i}")
            for i, item in enumerate(items)
        ]
        replies = player.act(asks)
        right = (self.task.correct(item, reply.text) >= 1 for item, reply in zip(items, replies, strict=True))
        return Score(tuple(right), items)

    def _examples(self, number: int) -> tuple[Message, ...]:
        rng, messages = Random(f"{self.seed}/few_shot/{number}"), tuple[Message, ...]()
        for _ in range(self.shots):
            question = self.task.draw(rng)
            messages += (*user(question), {"role": "assistant", "content": demonstration(question, self.task)})
        return messages

    def _check(self, without: float, behind: float) -> None:
        """Raise SelfplayError if the gain of the reference is too small."""
        assert self.least is not None
        if behind - without < self.least:
            raise SelfplayError(
                f"{self.shots} examples change the accuracy of the model from {without:.1%} to {behind:.1%}, which is "
                f"less than eval.least={self.least:+.1%}, so there is nothing to distil; take a model that learns from "
                "examples, another eval.shots, or eval.least=null"
            )
        self._passed = True

    @staticmethod
    def _accuracy(score: Score) -> float:
        return sum(score.correct) / len(score.correct)
