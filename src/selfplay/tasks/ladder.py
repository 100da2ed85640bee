"""A ladder of levels: a level-k question asks for k operations on a word, one after another, with exact answers.

The reply states the word after every operation, and its last word counts. Who errs with probability h at each
operation is right with probability (1 - h)^k, so the higher levels can only be learnt after the lower ones.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from random import Random

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, Seed
from selfplay.tasks.task import Item, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 3  # letters of a word
HIGHEST = 12
HELD_OUT_SHARE = 8  # one question in this many is held out
DRAWS_PER_QUESTION = 1000


def _moved(by: int) -> Callable[[str], str]:
    return lambda word: "".join(LETTERS[(LETTERS.index(letter) + by) % 26] for letter in word)


# letter -> the operation, and the embedded model's typical mistake
OPERATIONS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "r": (lambda word: word[::-1], lambda word: word),  # reverse
    "u": (_moved(1), _moved(-1)),  # up: every letter becomes the next one of the alphabet
    "d": (_moved(-1), _moved(1)),  # down
    "s": (lambda word: "".join(sorted(word)), lambda word: "".join(sorted(word, reverse=True))),  # sort
    "l": (lambda word: word[1:] + word[0], lambda word: word[-1] + word[:-1]),  # left: the first letter goes to the end
    "x": (
        lambda word: word[1] + word[0] + word[2:],
        lambda word: word[:-2] + word[-1] + word[-2],
    ),  # exchange the first two
}
QUESTION = re.compile(rf"([{''.join(OPERATIONS)}]{{1,{HIGHEST}}}) ([a-z]{{{LENGTH}}})")


def steps(operations: str, word: str, mistaken: Callable[[], bool] = lambda: False) -> list[str]:
    """The word after each operation; `mistaken` is asked before each whether the typical mistake is made."""
    words = []
    for operation in operations:
        right, mistake = OPERATIONS[operation]
        word = mistake(word) if mistaken() else right(word)
        words.append(word)
    return words


@lru_cache(maxsize=65536)
def _parse(text: str) -> Item | None:
    found = QUESTION.fullmatch(text)
    if found is None:
        return None
    operations, word = found.groups()
    trace = steps(operations, word)
    return Item(text, trace[-1], {"levels": str(len(operations))}, demonstration=" ".join(trace))


def _is_held_out(text: str) -> bool:
    return sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


def question(rng: Random, level: int, heldout: bool = False) -> str:
    """Sample a question of a level."""
    while True:
        operations = "".join(rng.choices(tuple(OPERATIONS), k=level))
        text = f"{operations} {''.join(rng.choices(LETTERS, k=LENGTH))}"
        if _is_held_out(text) == heldout:
            return text


class Ladder(Task):
    """Questions such as "rus cab" (reverse, up, sort), which is answered by "bac cbd bcd".

    The operations are r (reverse), u and d (every letter up or down the alphabet), s (sort), l (the first letter goes
    to the end) and x (the first two change places).

    Args:
        top: the highest level of the held-out questions, at most 12. A Challenger may ask up to that.
        levels: of the training questions, all equally often; None: 1 to `top`.
        per_level: held-out questions for each level.
        seed: random seed of the held-out questions.

    Raises:
        SelfplayError: there is no such level, or a level has too few held-out questions.
    """

    def __init__(
        self, top: Count = 8, levels: Sequence[Count] | None = None, per_level: Count = 64, seed: Seed = 0
    ) -> None:
        at_least(1, **{"task.top": top, "task.per_level": per_level})
        self.levels = tuple(levels) if levels is not None else tuple(range(1, top + 1))
        if top > HIGHEST or not self.levels or not set(self.levels) <= set(range(1, HIGHEST + 1)):
            raise SelfplayError(
                f"task.top is {top} and task.levels {list(self.levels)}, but the ladder has the levels 1 to {HIGHEST}"
            )
        self._held_out = [item for level in range(1, top + 1) for item in _held_out(level, per_level, seed)]

    def draw(self, rng: Random) -> str:
        return question(rng, rng.choice(self.levels))

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def holds_out(self, question: str) -> bool:
        return _parse(question) is not None and _is_held_out(question)

    def item(self, question: str) -> Item | None:
        return _parse(question)

    def correct(self, item: Item, reply: str) -> float:
        return float(self.answer_in(reply) == item.answer)

    def answer_in(self, reply: str) -> str:
        return reply.split(" ")[-1]


@lru_cache(maxsize=64)
def _held_out(level: int, count: int, seed: int) -> tuple[Item, ...]:
    """The held-out questions of a level, all different."""
    rng = Random(f"held-out/{seed}/{level}")
    found: dict[str, Item] = {}
    for _ in range(DRAWS_PER_QUESTION * count):
        item = _parse(question(rng, level, heldout=True))
        assert item is not None
        found[item.question] = item
        if len(found) == count:
            return tuple(found.values())
    raise SelfplayError(
        f"task.per_level is {count}, but level {level} seems to have only {len(found)} held-out questions; lower it, "
        "for example to 64"
    )
