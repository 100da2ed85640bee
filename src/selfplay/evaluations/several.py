"""Several evaluations in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selfplay.core import SelfplayError

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class Several:
    """Runs the main evaluation and further ones, all on the main evaluation's schedule.

    Metrics of the main evaluation keep their names; those of the others are logged as `eval/<name>/<metric>`.

    Args:
        first: the main evaluation, see `selfplay.evaluations`.
        further: name -> evaluation.

    Raises (when called):
        SelfplayError: a further evaluation has the name of a metric of the main one.
    """

    def __init__(self, first: Any, further: Mapping[str, Any]) -> None:
        self.first, self.further, self.every = first, further, first.every

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        found: dict[str, object] = self.first(experiment)
        if taken := set(found) & set(self.further):
            name = min(taken)
            raise SelfplayError(f"extra_evals.{name} has the name of a metric of the main evaluation; rename it")
        return {**found, **{name: evaluation(experiment) for name, evaluation in self.further.items()}}

    def gain(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, object]:
        gains = {name: part.gain(before[name], after[name]) for name, part in self.further.items()}
        return {**self.first.gain(before, after), **gains}
