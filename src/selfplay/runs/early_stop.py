"""Early stopping: a run ends when its evaluations stop improving, or when a metric of its steps leaves its limits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from selfplay.core import SelfplayError
from selfplay.measures import numbers

Evaluations = Mapping[int, Mapping[str, Any]]  # step -> the evaluation after it
Line = Mapping[str, Any]  # a step's metrics


@dataclass(frozen=True)
class EarlyStop:
    """The rule that ends a run early, see `stop` in conf/config.yaml; it follows from the logged lines alone.

    Args:
        metric: the name of a figure of the evaluations, such as "eval/accuracy"; None never stops.
        patience: successive evaluations without a new best value after which the run ends.
        goal: "max" if larger values are better, else "min".
        above: metric -> limit; the run ends after a step at which its mean over the last `window` steps exceeds it.
        below: the same for means that fall below their limit.
        window: the number of steps.
    """

    metric: str | None = None
    patience: int = 3
    goal: str = "max"
    above: Mapping[str, float] = field(default_factory=dict)
    below: Mapping[str, float] = field(default_factory=dict)
    window: int = 10

    @classmethod
    def of(cls, cfg: DictConfig) -> "EarlyStop":
        """The rule of a run; configs of earlier versions have none."""
        return cls(**OmegaConf.to_container(OmegaConf.select(cfg, "stop") or OmegaConf.create()))  # type: ignore[arg-type]

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

    def recent(self, lines: Iterable[Line]) -> list[Line]:
        """The lines of the last `window` steps of training."""
        return [line for line in lines if line["step"] > 0][-self.window :]

    def left(self, recent: Sequence[Line]) -> str:
        """Which mean over the last `window` steps has left its limit, in words; empty if none has.

        Raises:
            SelfplayError: none of the steps logs a metric that has a limit.
        """
        for limits, sign, words in ((self.above, 1, "above"), (self.below, -1, "below")):
            for name, limit in limits.items():
                values = [float(line[name]) for line in recent if isinstance(line.get(name), int | float)]
                if recent and not values:
                    known = sorted(name for name, value in recent[-1].items() if isinstance(value, int | float))
                    raise SelfplayError(
                        f"stop.{words} limits '{name}', which this run does not log; choose one of {', '.join(known)}"
                    )
                if len(recent) == self.window and sign * (mean := fmean(values)) > sign * limit:
                    return f"{name} was {mean:.4g} on average over the last {self.window} steps, {words} {limit:g}"
        return ""

    def summary(self, evaluations: Evaluations, recent: Sequence[Line], early: bool) -> dict[str, Any]:
        """The rule's entry in summary.json, `stop`; empty without a rule.

        Args:
            early: whether the rule has ended the run.
        """
        best, limits = self.best(evaluations), bool(self.above or self.below)
        if best is None and not limits:
            return {}
        rule = {key: value for key, value in asdict(self).items() if limits or key in ("metric", "patience", "goal")}
        figures = {} if best is None else {"best_step": best[0], "best": best[1]}
        return {"stop": {**rule, **figures, "early": early, **({"left": self.left(recent)} if limits else {})}}

    def ended(self, summary: Mapping[str, Any]) -> bool:
        """Whether this rule has ended the run with this summary."""
        found = summary.get("stop") or {}
        rule = {key: found[key] for key in asdict(self) if key in found}
        return bool(found.get("early")) and EarlyStop(**rule) == self

    def words(self, evaluations: Evaluations, recent: Sequence[Line], step: int) -> str:
        """What a run says when the rule ends it after a step."""
        if left := self.left(recent):
            return f"stopped early after step {step}: {left}"
        best = self.best(evaluations)
        assert best is not None
        return (
            f"stopped early after step {step}: {self.metric} has not improved for {self.patience} evaluations; it was "
            f"best at step {best[0]} ({best[1]:.4f})" + (f", in checkpoints/step-{best[0]:06d}" if best[0] else "")
        )


def evaluations_of(lines: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Step -> evaluation, of the lines of metrics.jsonl."""
    return {line["step"]: line["eval"] for line in lines if "eval" in line}


def optimized(line: Line, metric: str) -> float:
    """The value of the optimized metric in a line.

    Raises:
        SelfplayError: it is not there.
    """
    flat = {k: v for k, v in line.items() if isinstance(v, int | float)}
    flat |= {f"eval/{k}": v for k, v in line.get("eval", {}).items() if isinstance(v, int | float)}
    every = flat | numbers(line.get("eval", {}), "eval/")
    if metric not in every:
        raise SelfplayError(
            f"optimized_metric is '{metric}', which this run does not log; choose one of " + ", ".join(sorted(flat))
        )
    return float(every[metric])


def _figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    return numbers(evaluation, "eval/")
