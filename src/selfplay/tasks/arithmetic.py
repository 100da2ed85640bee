"""Arithmetic questions for small chat models; the answer of any question is computed exactly, whoever wrote it."""

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Annotated

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, NotEmpty, Range, Seed
from selfplay.tasks.expression import Expression, find
from selfplay.tasks.match import answer_in, number
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Item, Task

WORDINGS = ("What is {}?", "Compute {}.", "Calculate {}.", "Work out {}.", "How much is {}?", "Find the value of {}.")
LEVELS = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (3, 3)}  # level -> (longest number in digits, operations)
SIGNS = ("+", "-", "*")
TRIES = 20_000  # expressions sampled until one falls on the wanted side of the split
MAX_DUPLICATES = 200  # consecutive duplicates after which a level counts as exhausted


class Arithmetic(Task):
    """Evaluate the arithmetic expression in a question.

    A question is any text with exactly one expression of integers, + - * and parentheses, and no other number
    (`selfplay.tasks.expression`), so questions written by a model can be judged as well. A reply is correct if its last
    number is: "12", "The answer is 12.", "5 + 7 = 12". All wordings of an expression are held out together.

    Args:
        levels: difficulty levels to sample, 1 to 5: numbers of 1 or 2 digits with one operation, 2 or 3 digits with
            two, 3 digits with three.
        per_level: held-out questions per level.
        held_out_share: share of held-out expressions, chosen by a hash.
        seed: random seed of the held-out questions.

    Raises:
        SelfplayError: a level does not exist, or has too few questions.
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
                f"task.held_out_share is {held_out_share}, so training or evaluation has no questions; choose 0.125"
            )
        self.levels, self.share = tuple(levels), held_out_share
        for level in self.levels:
            self._sample(Random(0), level, held_out=False)  # raises if the level has no training expression
        self._held_out = [item for level in self.levels for item in self._cell(level, per_level, seed)]

    def draw(self, rng: Random) -> str:
        return self._sample(rng, rng.choice(self.levels), held_out=False)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def holds_out(self, question: str) -> bool:
        expression = find(question)
        return expression is not None and is_held_out(expression.text, self.share)

    def item(self, question: str) -> Item | None:
        return known(question)

    def correct(self, item: Item, reply: str) -> float:
        return number(reply, item.answer)

    def answer_in(self, reply: str) -> str:
        return answer_in(number, reply)

    def _sample(self, rng: Random, level: int, held_out: bool) -> str:
        for _ in range(TRIES):
            expression = _random(rng, *LEVELS[level])
            if is_held_out(expression.replace(" ", ""), self.share) == held_out:
                return rng.choice(WORDINGS).format(expression)
        kind = "held out" if held_out else "left to train on"
        raise SelfplayError(
            f"task.held_out_share is {self.share}, so none of {TRIES} expressions of level {level} is {kind}; choose "
            "another share, for example 0.125"
        )

    def _cell(self, level: int, count: int, seed: int) -> list[Item]:
        rng = Random(f"held-out/{seed}/{level}")
        cell: dict[str, Item] = {}
        duplicates = 0
        while len(cell) < count and duplicates < MAX_DUPLICATES:
            item = known(self._sample(rng, level, held_out=True))
            assert item is not None
            key = _key(item)
            duplicates = duplicates + 1 if key in cell else 0
            cell.setdefault(key, item)
        if len(cell) == count:
            return list(cell.values())
        raise SelfplayError(
            f"task.per_level is {count}, but level {level} seems to have only {len(cell)} held-out expressions; "
            "lower it, or raise task.held_out_share"
        )


@lru_cache(maxsize=65536)
def known(text: str) -> Item | None:
    """The question in a text with its answer and labels; None unless it has exactly one expression."""
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
    """The lowest level that allows the digits and operations of an expression."""
    for level, (digits, operations) in LEVELS.items():
        if expression.digits <= digits and len(expression.operations) <= operations:
            return str(level)
    return "beyond"


def _random(rng: Random, digits: int, operations: int) -> str:
    """A random expression whose longest number has the given digits, sometimes with parentheses."""
    numbers = [rng.randrange(10 ** (d - 1) if d > 1 else 0, 10**d) for d in _lengths(rng, digits, operations + 1)]
    signs = [rng.choice(SIGNS) for _ in range(operations)]
    words = [str(numbers[0])]
    for sign, value in zip(signs, numbers[1:], strict=True):
        words += [sign, str(value)]
    if operations > 1 and rng.random() < 0.3:
        first = rng.randrange(operations)  # parentheses around two adjacent numbers
        words[2 * first] = f"({words[2 * first]}"
        words[2 * first + 2] = f"{words[2 * first + 2]})"
    return " ".join(words)


def _lengths(rng: Random, digits: int, count: int) -> list[int]:
    lengths = [rng.randint(1, digits) for _ in range(count)]
    lengths[rng.randrange(count)] = digits
    return lengths
