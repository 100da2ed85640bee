"""Logged metrics as flat names, and how each is presented: its name in words, its unit, whether higher is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHARES = {
    "accuracy", "truth", "invalid", "distinct", "win_rate", "frac_reward_zero_std", "valid", "unique",
    "ties", "order", "longer", "mean_accuracy", "agreement", "prompt_loose", "instruction_strict", "instruction_loose",
    "few_shot",
}  # fmt: skip
UNITS = {
    "kl": "nats per token",
    "entropy": "nats per token",
    "nll": "nats per token",
    "length": "tokens per reply",
    "tokens": "tokens",
}
WORDS = {
    "accuracy": "held-out accuracy",
    "mean_accuracy": "accuracy of single answers",
    "agreement": "agreement with the majority",
    "few_shot": "accuracy behind examples",
    "nll": "negative log-likelihood",
    "truth": "right answers",
    "invalid": "invalid questions",
    "distinct": "distinct replies",
    "kl": "KL from the reference",
    "payoff": "payoff",
    "nash_conv": "NashConv",
    "mixture_nash_conv": "NashConv of the mixture",
    "win_rate": "games won",
    "frac_reward_zero_std": "groups with equal rewards (no signal)",
    "length": "length",
}
LESS_IS_BETTER = {
    "nash_conv",
    "mixture_nash_conv",
    "exploitability",
    "nll",
    "loss",
    "invalid",
    "logprob_mismatch",
    "calibration_error",
}
MORE_IS_BETTER = {
    "accuracy", "mean_accuracy", "agreement", "few_shot", "prompt_loose", "instruction_strict", "instruction_loose",
    "truth", "valid", "unique", "win_rate", "return", "reward", "payoff", "gain",
}  # fmt: skip
HEADLINES = ("accuracy", "nash_conv", "return", "win_rate", "nll")  # main figures of the evaluations
FIRST = ("truth", "reward", "invalid", "payoff")  # curves of every role that come first
THEN = ("kl", "entropy", "length", "distinct")
MOST = 16  # metrics with learning curves


@dataclass(frozen=True)
class Measure:
    """How a metric is displayed.

    Attributes:
        key: its name in metrics.jsonl.
        words: its description.
        unit: of the displayed value; "%" for shares.
        factor: from the logged to the displayed value.
    """

    key: str
    words: str
    unit: str
    factor: float

    @property
    def title(self) -> str:
        return self.words[0].upper() + self.words[1:]

    @property
    def share(self) -> bool:
        return self.unit == "%"

    @property
    def less_is_better(self) -> bool:
        return self.key.rpartition("/")[2] in LESS_IS_BETTER

    @property
    def better(self) -> tuple[str, str]:
        """What a higher and a lower value are called: "better" and "worse" where the metric has a direction."""
        if self.less_is_better:
            return "worse", "better"
        return ("better", "worse") if self.key.rpartition("/")[2] in MORE_IS_BETTER else ("higher", "lower")

    @property
    def digits(self) -> int:
        return 1 if self.share else 3


def measure(key: str) -> Measure:
    """The measure of a logged name, such as `solver/kl` or `eval/accuracy`."""
    role, _, name = key.rpartition("/")
    words = WORDS.get(name, name.replace("_", " "))
    unit = "%" if name in SHARES else UNITS.get(name, words)
    return Measure(key, words if role in ("", "eval") else f"{role}: {words}", unit, 100.0 if name in SHARES else 1.0)


def numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten the numbers in a record to paths such as "eval/accuracy"; an interval gives ".../low" and ".../high"."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{name}/")
        elif isinstance(value, int | float):
            flat[name] = float(value)
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
            flat |= {f"{name}/low": float(value[0]), f"{name}/high": float(value[1])}
    return flat


def headline(evaluation: Mapping[str, object]) -> str | None:
    """The main figure of an evaluation, to which its `interval` belongs: the first number of the record."""
    return next((name for name, value in evaluation.items() if isinstance(value, int | float)), None)


def evaluated(columns: Iterable[str]) -> list[str]:
    """The flat names of the evaluations' main figures: the first one under "eval/", then all of `HEADLINES`."""
    names = [name for name in columns if name.startswith("eval/")]
    main = [name for name in names if name.rpartition("/")[2] in HEADLINES and name.count("/") < 3]
    return list(dict.fromkeys([*[name for name in names if name.count("/") == 1][:1], *main]))


def important(columns: Iterable[str], optimized: Sequence[str]) -> list[Measure]:
    """The metrics whose curves are drawn: optimised ones, evaluations, then those of the roles."""
    known = list(columns)
    names = [*optimized, *evaluated(known), "eval/mixture_nash_conv", "eval/few_shot"]
    for some in (FIRST, ("frac_reward_zero_std",), THEN):
        for name in some:
            names += sorted((key for key in known if key.rpartition("/")[2] == name and key.count("/") < 2), key=_role)
    return [measure(key) for key in dict.fromkeys(names) if key in known][:MOST]


def _role(key: str) -> tuple[bool, str]:
    return not key.startswith("solver/"), key


def number(value: float, digits: int, signed: bool = False) -> str:
    """Format a number with a typographic minus sign; values that round to 0 have no sign, NaN gives an en dash."""
    if not math.isfinite(value):
        return "–"
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def bounds(low: float, high: float, digits: int, signed: bool = False) -> str:
    """Format an interval in brackets; "" if an end is not finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low, digits, signed)}, {number(high, digits, signed)}]"


def probability(p: float) -> str:
    """Format a p-value; small ones as "< 0.001"."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
