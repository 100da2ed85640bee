"""Type hints that constrain the options of constructors: `beta: NotNegative`, `answers: Count`.

`selfplay.signature` checks every `_target_` in a config against these and plain hints before anything is built. Your
own classes declare their options in the same way:

    class MyGame(Game):
        def __init__(self, rounds: Count, bonus: NotNegative, mode: Annotated[str, OneOf("short", "long")]) -> None:
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

MOST = 1_000_000  # upper limit of counts
LONGEST = 1_000_000_000  # upper limit of steps
LARGE = 1e9  # upper limit of real numbers

Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; only integers in an Annotated[int, ...]. NaN is excluded.

    Attributes:
        low, high: the bounds, inclusive by default.
        above: whether `low` is excluded.
        below: whether `high` is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def fault(self, value: object) -> str | None:
        """Which bound the number violates, e.g. "at least 0"; None if it is in the range."""
        assert isinstance(value, int | float)
        if value != value or value < self.low or (self.above and value == self.low):
            return f"{'above' if self.above else 'at least'} {self._end(self.low)}"
        if value > self.high or (self.below and value == self.high):
            return f"{'below' if self.below else 'at most'} {self._end(self.high)}"
        return None

    def _end(self, value: float) -> str:
        return str(int(value)) if value == int(value) and abs(value) < 1e16 else f"{value:g}"


class OneOf:
    """One of the given strings."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def fault(self, value: object) -> str | None:
        return None if value in self.names else f"one of {', '.join(self.names)}"


class Unlike:
    """Any value except `value`; `instead` says what is expected."""

    def __init__(self, value: object, instead: str) -> None:
        self.value, self.instead = value, instead

    def fault(self, value: object) -> str | None:
        return self.instead if value == self.value else None


class Expression:
    """A regular expression.

    Args:
        groups: required number of groups; None for any.
    """

    def __init__(self, groups: int | None = None) -> None:
        self.groups = groups

    def fault(self, value: object) -> str | None:
        try:
            found = re.compile(str(value)).groups
        except re.error as error:
            return f"a regular expression ({error})"
        if self.groups is None or found == self.groups:
            return None
        return f"a regular expression with {self.groups} group in parentheses (it has {found})"


class Holding:
    """A template with the given placeholders, such as {question}."""

    def __init__(self, *places: str) -> None:
        self.places = places

    def fault(self, value: object) -> str | None:
        missing = [f"{{{name}}}" for name in self.places if f"{{{name}}}" not in str(value)]
        return f"a text with the placeholder {missing[0]}" if missing else None


class OfTorch:
    """A PyTorch device: cpu, cuda, cuda:1, mps. Whether this machine has it is checked on first use."""

    def fault(self, value: object) -> str | None:
        import torch  # imported late, since checking user classes does not need it

        try:
            torch.device(str(value))
        except RuntimeError:
            return "a PyTorch device (cpu, cuda, cuda:0, mps, ...)"
        return None


class NotEmpty:
    """A non-empty string, list or mapping."""

    def fault(self, value: object) -> str | None:
        return None if len(value) else "not empty"  # type: ignore[arg-type]


Device = Annotated[str, OfTorch()]
Count = Annotated[int, Range(1, MOST)]
Whole = Annotated[int, Range(0, MOST)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Number = Annotated[float, Range(-LARGE, LARGE)]
NotNegative = Annotated[float, Range(0, LARGE)]
Positive = Annotated[float, Range(0, LARGE, above=True)]
Share = Annotated[float, Range(0, 1)]
Unbounded = Annotated[float, Range()]  # includes infinity, which a plain `float` excludes
Steps = Annotated[int, Range(0, LONGEST)]
Period = Annotated[int, Range(1, LONGEST)]  # interval in steps
Temperature = Annotated[float, Range(0.01, 100)]  # of a learner, which must explore
Reward = Annotated[float, Range(-100, 100)]  # of referees
Momentum = Annotated[float, Range(0, 1, below=True)]
Dtype = Annotated[str, OneOf("float32", "bfloat16", "float16", "float64")]
Name = Annotated[str, NotEmpty()]


def applies(**conditions: Mapping[str, object]) -> Callable[[Made], Made]:
    """Decorate a constructor some of whose options apply only if other options have certain values.

    @applies(custom={"name": "custom"}) declares that `custom` applies only if `name` is "custom". Setting it otherwise
    raises an error instead of having no effect (`selfplay.effect`).
    """

    def marked(made: Made) -> Made:
        made.applies = conditions  # type: ignore[attr-defined]
        return made

    return marked
