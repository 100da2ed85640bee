"""The share of its tests that proposed code passes: it is run, so what counts is what it does."""

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
    """What `reward=verifier` measures on a task of programs, several answers at a time, and how they failed.

    Code that fails, loops or crashes passes no test and earns 0: it was judged. Where nothing can be run, it raises. No
    answer to something that is no question of the task passes anything.

    Reports `solved` (share of the distinct answers that pass all their tests), `late` (whose time ran out) and
    `unknown` (to no question of the task).

    Args:
        task: of programs.
        parallel: answers that are run at once.
        isolation: see `selfplay.sandbox.sandbox.Sandbox`; in the place of the task's.

    Raises:
        SelfplayError: a task of something else, or an isolation that there is not.
    """

    def __init__(self, task: Task, parallel: Annotated[int, Range(1, 1000)] = 2, isolation: str = "auto") -> None:
        at_least(1, parallel=parallel)
        if not isinstance(task, Programs):
            raise SelfplayError(
                f"reward=code needs programs, the task is {type(task).__name__}; use task=programs or reward=verifier"
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
