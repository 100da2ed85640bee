"""Scoring code by the fraction of tests that it passes when executed."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.options import Range
from selfplay.referees.deduplicate import Pair, score_deduplicated
from selfplay.tasks.programs import Programs
from selfplay.tasks.task import Task


class Code(Referee):
    """The fraction of tests passed, as with `reward=verifier` on a programming task, but run in parallel.

    A test fails if the code raises an error, loops or crashes in it. Answers to prompts that are not questions of the
    task score 0.

    Reports the fractions of distinct answers that are `solved` (all tests pass), `late` (the run timed out or did not
    finish) and `unknown` (the prompt is not a question of the task).

    Args:
        task: a `Programs` task.
        parallel: number of answers executed concurrently.
        isolation: overrides the task's isolation, see `selfplay.sandbox.sandbox.Sandbox`.

    Raises:
        SelfplayError: the task is not `Programs`, or the isolation is unknown.
        SelfplayError (when scoring): the sandbox cannot run.
    """

    def __init__(self, task: Task, parallel: Annotated[int, Range(1, 1000)] = 2, isolation: str = "auto") -> None:
        at_least(1, parallel=parallel)
        if not isinstance(task, Programs):
            raise SelfplayError(
                f"reward=code needs programs, but the task is {type(task).__name__}; use task=programs or "
                "reward=verifier"
            )
        self.task, self.parallel = task, parallel
        self.sandbox = replace(task.sandbox, isolation=isolation)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_deduplicated(turns, self._shares)

    def _shares(self, pairs: list[Pair]) -> Tensor:
        with ThreadPoolExecutor(self.parallel) as pool:
            outcomes = list(pool.map(lambda pair: self.task.outcome(pair[0], pair[1], self.sandbox), pairs))
        shares = [0.0 if outcome is None else outcome.share for outcome in outcomes]
        self.metrics = {
            "solved": fmean(share == 1.0 for share in shares),
            "late": fmean(outcome is not None and outcome.late for outcome in outcomes),
            "unknown": fmean(outcome is None for outcome in outcomes),
        }
        return torch.tensor(shares)
