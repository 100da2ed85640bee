"""Several evaluations at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selfplay.core import SelfplayError

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class Several:
    """The run's own evaluation, whose figures keep their names, and further ones beside it: `eval/<name>/<figure>`.

    All are due when the first is.

    Args:
        first: see `selfplay.evaluations`.
        further: by name.

    Raises (when called):
        SelfplayError: a further one has the name of a figure of the first.
    """

    def __init__(self, first: Any, further: Mapping[str, Any]) -> None:
        self.first, self.further, self.every = first, further, first.every

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        found: dict[str, object] = self.first(experiment)
        if taken := set(found) & set(self.further):
            name = min(taken)
            raise SelfplayError(f"extra_evals.{name} has the name of a figure of the run's eval; call it otherwise")
        return {**found, **{name: evaluation(experiment) for name, evaluation in self.further.items()}}

    def gain(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, object]:
        gains = {name: part.gain(before[name], after[name]) for name, part in self.further.items()}
        return {**self.first.gain(before, after), **gains}
