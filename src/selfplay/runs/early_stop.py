"""Early stopping: a run ends when a figure of its evaluations has not improved for a number of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from selfplay.core import SelfplayError
from selfplay.measures import numbers

Evaluations = Mapping[int, Mapping[str, Any]]  # step -> the evaluation after it


@dataclass(frozen=True)
class EarlyStop:
    """The rule that ends a run early, see `stop` in conf/config.yaml; it follows from the logged evaluations alone.

    Args:
        metric: the name of a figure of the evaluations, such as "eval/accuracy"; None never stops.
        patience: successive evaluations without a new best value after which the run ends.
        goal: "max" if larger values are better, else "min".
    """

    metric: str | None = None
    patience: int = 3
    goal: str = "max"

    @classmethod
    def of(cls, cfg: DictConfig) -> "EarlyStop":
        """The rule of a run; configs of earlier versions have none."""
        return cls(**(OmegaConf.select(cfg, "stop") or {}))

    def check(self, evaluations: Evaluations) -> None:
        """Raise SelfplayError if there are no evaluations or the first one lacks the metric."""
        if self.metric is None:
            return
        if not evaluations:
            raise SelfplayError(
                f"stop.metric is '{self.metric}', but eval is none; choose an eval, or leave stop.metric out"
            )
        if self.metric not in (known := _figures(evaluations[min(evaluations)])):
            raise SelfplayError(
                f"stop.metric is '{self.metric}', which the evaluations of this run do not log; choose one of "
                + ", ".join(sorted(name for name in known if name.count("/") == 1))
            )

    def best(self, evaluations: Evaluations) -> tuple[int, float] | None:
        """The step of the best evaluation, the first one on ties, and its value; None if none has the metric."""
        if self.metric is None:
            return None
        found = {step: _figures(evaluations[step]) for step in sorted(evaluations)}
        values = {step: figures[self.metric] for step, figures in found.items() if self.metric in figures}
        if not values:
            return None
        sign = 1 if self.goal == "max" else -1
        step = max(values, key=lambda at: sign * values[at])
        return step, values[step]

    def best_step(self, evaluations: Evaluations) -> int | None:
        """The step of `best`."""
        best = self.best(evaluations)
        return None if best is None else best[0]

    def due(self, evaluations: Evaluations) -> bool:
        """Whether the run ends after the last evaluation."""
        best = self.best_step(evaluations)
        return best is not None and sum(step > best for step in evaluations) >= self.patience

    def summary(self, evaluations: Evaluations, early: bool) -> dict[str, Any]:
        """The rule's entry in summary.json, `stop`; empty without a metric.

        Args:
            early: whether the rule has ended the run.
        """
        best = self.best(evaluations)
        if best is None:
            return {}
        rule = {"metric": self.metric, "patience": self.patience, "goal": self.goal}
        return {"stop": {**rule, "best_step": best[0], "best": best[1], "early": early}}

    def ended(self, summary: Mapping[str, Any]) -> bool:
        """Whether this rule has ended the run with this summary."""
        found = summary.get("stop") or {}
        return bool(found.get("early")) and EarlyStop(found["metric"], found["patience"], found["goal"]) == self

    def words(self, evaluations: Evaluations, step: int) -> str:
        """What a run says when the rule ends it after a step."""
        best = self.best(evaluations)
        assert best is not None
        return (
            f"stopped early after step {step}: {self.metric} has not improved for {self.patience} evaluations; it was "
            f"best at step {best[0]} ({best[1]:.4f})" + (f", in checkpoints/step-{best[0]:06d}" if best[0] else "")
        )


def evaluations_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Step -> evaluation, of the lines of metrics.jsonl."""
    return {line["step"]: line["eval"] for line in lines if "eval" in line}


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    return numbers(evaluation, "eval/")
