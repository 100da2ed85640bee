"""Arithmetic in words: questions for small real models, with exact answers whoever writes them."""

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Annotated

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, NotEmpty, Range, Seed
from selfplay.tasks.expression import Expression, find
from selfplay.tasks.match import number
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Item, Task

WORDINGS = ("What is {}?", "Compute {}.", "Calculate {}.", "Work out {}.", "How much is {}?", "Find the value of {}.")
LEVELS = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (3, 3)}  # digits of the longest number, operations
SIGNS = ("+", "-", "*")
TRIES = 20_000  # expressions, until one is held out or is not
VAIN_DRAWS = 200  # in a row, before a level is taken to be exhausted


class Arithmetic(Task):
    """What an expression in a text is worth.

    Any text counts as a question that holds exactly one expression of whole numbers with + - * and parentheses, and
    no other number (`selfplay.tasks.expression`); so a model that writes questions can be judged, too. A reply is right
    if its last number is: "12", "The answer is 12.", "5 + 7 = 12". Questions with the same expression are held out
    together, in whatever words they are asked.

    Args:
        levels: those that are drawn, 1 to 5: 1 and 2 digits with one operation, 2 and 3 with two, 3 with three.
        per_level: held-out questions of each.
        held_out_share: of the expressions, by a hash.
        seed: which held-out questions.

    Raises:
        SelfplayError: a level that there is not, or one that has not so many questions.
    """

    def __init__(
        self,
        levels: Annotated[Sequence[Count], NotEmpty()] = (1, 2, 3, 4, 5),
        per_level: Annotated[int, Range(1, 10_000)] = 30,
        held_out_share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.125,
        seed: Seed = 0,
    ) -> None:
        at_least(1, **{"task.per_level": per_level})
        check_share("task.held_out_share", held_out_share)
        if not levels or not set(levels) <= set(LEVELS):
            raise SelfplayError(f"task.levels is {list(levels)}; name some of {', '.join(map(str, LEVELS))}")
        if not 0 < held_out_share < 1:
            raise SelfplayError(
                f"task.held_out_share is {held_out_share}, but there must be some to train on and some to be judged by"
            )
        self.levels, self.share = tuple(levels), held_out_share
        for level in self.levels:
            self._drawn(Random(0), level, held_out=False)  # whether there is any
        self._held_out = [item for level in self.levels for item in self._cell(level, per_level, seed)]

    def draw(self, rng: Random) -> str:
        return self._drawn(rng, rng.choice(self.levels), held_out=False)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def item(self, question: str) -> Item | None:
        return known(question)

    def correct(self, item: Item, reply: str) -> float:
        return number(reply, item.answer)

    def _drawn(self, rng: Random, level: int, held_out: bool) -> str:
        for _ in range(TRIES):
            expression = _random(rng, *LEVELS[level])
            if is_held_out(expression.replace(" ", ""), self.share) == held_out:
                return rng.choice(WORDINGS).format(expression)
        kind = "held out" if held_out else "left to train on"
        raise SelfplayError(
            f"task.held_out_share is {self.share}, so of {TRIES} expressions of level {level} none is {kind}; choose "
            "another share, for example 0.125"
        )

    def _cell(self, level: int, count: int, seed: int) -> list[Item]:
        rng = Random(f"held-out/{seed}/{level}")
        cell: dict[str, Item] = {}
        vain = 0
        while len(cell) < count and vain < VAIN_DRAWS:
            item = known(self._drawn(rng, level, held_out=True))
            assert item is not None
            key = _key(item)
            vain = vain + 1 if key in cell else 0
            cell.setdefault(key, item)
        if len(cell) == count:
            return list(cell.values())
        raise SelfplayError(
            f"task.per_level is {count}, but level {level} has hardly more than {len(cell)} held-out expressions; "
            "lower it, or raise task.held_out_share"
        )


@lru_cache(maxsize=65536)
def known(text: str) -> Item | None:
    """The question that a text asks, None where it holds no expression or more than one."""
    expression = find(text)
    if expression is None:
        return None
    labels = {"levels": _level(expression), "operations": "".join(sorted(set(expression.operations)))}
    return Item(text, str(expression.value), labels)


def _key(item: Item) -> str:
    expression = find(item.question)
    assert expression is not None
    return expression.text


def _level(expression: Expression) -> str:
    """The lowest level that allows as many digits and operations."""
    for level, (digits, operations) in LEVELS.items():
        if expression.digits <= digits and len(expression.operations) <= operations:
            return str(level)
    return "beyond"


def _random(rng: Random, digits: int, operations: int) -> str:
    """An expression whose longest number has so many digits, with parentheses now and then."""
    numbers = [rng.randrange(10 ** (d - 1) if d > 1 else 0, 10**d) for d in _lengths(rng, digits, operations + 1)]
    signs = [rng.choice(SIGNS) for _ in range(operations)]
    words = [str(numbers[0])]
    for sign, value in zip(signs, numbers[1:], strict=True):
        words += [sign, str(value)]
    if operations > 1 and rng.random() < 0.3:
        first = rng.randrange(operations)  # parentheses around two neighbours
        words[2 * first] = f"({words[2 * first]}"
        words[2 * first + 2] = f"{words[2 * first + 2]})"
    return " ".join(words)


def _lengths(rng: Random, digits: int, count: int) -> list[int]:
    lengths = [rng.randint(1, digits) for _ in range(count)]
    lengths[rng.randrange(count)] = digits
    return lengths
