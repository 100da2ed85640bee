"""What the option of a constructor may be, written as its type hint: `beta: NotNegative`, `answers: Count`.

`selfplay.signature` reads these hints, and plain ones, of every `_target_` in a config before anything is made. A class
of your own says what its options may be in the same way:

    class MyGame(Game):
        def __init__(self, rounds: Count, bonus: NotNegative, mode: Annotated[str, OneOf("short", "long")]) -> None:
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

MOST = 1_000_000  # of anything that is counted
LONGEST = 1_000_000_000  # steps
LARGE = 1e9  # of anything that is measured

Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, or of an Annotated[int, ...] the whole ones. NaN is none of them.

    Attributes:
        low, high: the ends, which belong to it unless `above` and `below` say otherwise.
        above: whether `low` itself is too small.
        below: whether `high` itself is too large.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def fault(self, value: object) -> str | None:
        """What the value, a number, should have been; None where it is one of them."""
        assert isinstance(value, int | float)
        if value != value or value < self.low or (self.above and value == self.low):
            return f"{'above' if self.above else 'at least'} {self._end(self.low)}"
        if value > self.high or (self.below and value == self.high):
            return f"{'below' if self.below else 'at most'} {self._end(self.high)}"
        return None

    def _end(self, value: float) -> str:
        return str(int(value)) if value == int(value) and abs(value) < 1e16 else f"{value:g}"


class OneOf:
    """One of some texts."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def fault(self, value: object) -> str | None:
        return None if value in self.names else f"one of {', '.join(self.names)}"


class Unlike:
    """Anything but one value, which means nothing here."""

    def __init__(self, value: object, instead: str) -> None:
        self.value, self.instead = value, instead

    def fault(self, value: object) -> str | None:
        return self.instead if value == self.value else None


class Expression:
    """A regular expression.

    Args:
        groups: how many groups it must have; None for any number.
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
        return f"a regular expression with {self.groups} part in parentheses, where it has {found}"


class Holding:
    """A text that holds places such as {question}, to be filled in."""

    def __init__(self, *places: str) -> None:
        self.places = places

    def fault(self, value: object) -> str | None:
        missing = [f"{{{name}}}" for name in self.places if f"{{{name}}}" not in str(value)]
        return f"a text with the place {missing[0]}" if missing else None


class OfTorch:
    """A device of torch's: cpu, cuda, cuda:1, mps. Whether this machine has it is seen where something is put there."""

    def fault(self, value: object) -> str | None:
        import torch  # here, since classes of one's own may be read without it

        try:
            torch.device(str(value))
        except RuntimeError:
            return "a device of torch's (cpu, cuda, cuda:0, mps, ...)"
        return None


class NotEmpty:
    """A text of one character at least, or a list or mapping of one entry."""

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
Unbounded = Annotated[float, Range()]  # infinity, too, which no plain `float` may be
Steps = Annotated[int, Range(0, LONGEST)]
Period = Annotated[int, Range(1, LONGEST)]  # steps from one time to the next
Temperature = Annotated[float, Range(0.01, 100)]  # of a learner, which explores
Reward = Annotated[float, Range(-100, 100)]  # what a referee gives
Momentum = Annotated[float, Range(0, 1, below=True)]
Dtype = Annotated[str, OneOf("float32", "bfloat16", "float16", "float64")]
Name = Annotated[str, NotEmpty()]


def applies(**conditions: Mapping[str, object]) -> Callable[[Made], Made]:
    """Mark a constructor: an option counts only where others have given values.

    @applies(custom={"name": "custom"}) says that `custom` means something only where `name` is "custom". A user who
    types it elsewhere is told so, instead of nothing happening (`selfplay.runs.start`).
    """

    def marked(made: Made) -> Made:
        made.applies = conditions  # type: ignore[attr-defined]
        return made

    return marked
