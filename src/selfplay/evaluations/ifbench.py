"""IFBench's four metrics (arXiv 2507.02833): strict and loose accuracy, per prompt and per constraint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from selfplay.core import SelfplayError, at_least
from selfplay.evaluations.answers import answers
from selfplay.evaluations.held_out import gain
from selfplay.options import Period, Range
from selfplay.tasks.ifbench import IFBench, Verdict
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class InstructionFollowing:
    """The learner's score on IFBench, computed by the benchmark's own code.

    `accuracy` is the fraction of prompts whose constraints are all satisfied under strict checking. It and
    `prompt_loose` cover the prompts whose checkers can all run; `instruction_strict` and `instruction_loose` cover all
    constraints whose checker can run. `skipped` lists the other checkers, with the number of affected prompts. The
    interval is that of the accuracy; the constraint metrics have none, because constraints of a prompt are dependent.

    Args:
        task: IFBench.
        temperature: sampling temperature of the answers; 0 is greedy.
        every: steps between evaluations; one always runs before the first step and one after the last.

    Raises:
        SelfplayError: the temperature is negative, or the task is not IFBench.
    """

    def __init__(self, task: IFBench, temperature: Annotated[float, Range(0, 100)] = 0.0, every: Period = 20) -> None:
        at_least(1, every=every)
        if temperature < 0:
            raise SelfplayError(f"eval.temperature is {temperature}; use 0 for greedy answers, or a positive number")
        if not isinstance(task, IFBench):
            raise SelfplayError(
                f"eval.task is {type(task).__name__}, but eval=ifbench requires IFBench; use eval=heldout"
            )
        self.task, self.temperature, self.every = task, temperature, every

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        player = experiment.opponent.main.with_temperature(self.temperature)
        return self.summary(answers(player, [prompt.text for prompt in self.task.asked], "eval/ifbench"))

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return gain(before, after)

    def summary(self, replies: Sequence[str]) -> dict[str, object]:
        """The metrics, given one reply to each of `task.asked`."""
        verdicts = [self.task.verdict(p, reply) for p, reply in zip(self.task.asked, replies, strict=True)]
        complete = [v for v in verdicts if None not in v.strict]
        correct = [all(v.strict) for v in complete]
        skipped = Counter(self.task.skipped)
        return {
            "accuracy": fmean(correct),
            "interval": intervals.as_list(intervals.share(sum(correct), len(correct))),
            "questions": len(correct),
            "prompt_loose": fmean(all(v.loose) for v in complete),
            "instruction_strict": fmean(flag for v in verdicts for flag in v.strict if flag is not None),
            "instruction_loose": fmean(flag for v in verdicts for flag in v.loose if flag is not None),
            "instructions": sum(flag is not None for v in verdicts for flag in v.strict),
            "kinds": self._by_kind(verdicts),
            "unreadable": sum(v.unreadable for v in verdicts),
            "skipped": [f"{name} ({count}): no {self.task.missing[name]}" for name, count in sorted(skipped.items())],
            "skipped_instructions": len(self.task.skipped),
            "skipped_long_prompts": len(self.task.too_long),
            "correct": "".join(str(int(c)) for c in correct),
        }

    def _by_kind(self, verdicts: Sequence[Verdict]) -> dict[str, float]:
        """Strict constraint accuracy by constraint family, the part of the name before the colon."""
        kinds: dict[str, list[bool]] = {}
        for prompt, verdict in zip(self.task.asked, verdicts, strict=True):
            for name, flag in zip(prompt.constraints, verdict.strict, strict=True):
                if flag is not None:
                    kinds.setdefault(name.split(":")[0], []).append(flag)
        return {kind: fmean(flags) for kind, flags in sorted(kinds.items())}
