"""Twelve families of questions: wordings, sampling, correct answers and typical mistakes.

A family has named operands (`{a}`, `{w}`, ...), all strings, and no wordings other than those listed. Length
grows with the level. Level 4 is a trap: the embedded model was only shown wrong answers there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from selfplay.tasks.tiny_world.operands import (
    LETTERS,
    Args,
    number_list,
    number_list_level,
    ordered_level,
    ordered_numbers,
    two_numbers,
    two_numbers_level,
    unequal_level,
    unequal_numbers,
    word,
    word_and_letter,
    word_and_letter_level,
    word_and_times,
    word_and_times_level,
    word_level,
)


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Attributes:
        name: its name in tables.
        kind: the kind of answer: "number", "letters" or "yesno".
        wordings: format strings over the operands' names.
        sample: (rng, level) -> operands.
        level: operands -> 1..4, or None if they do not belong to this world.
        answer: operands -> the correct answer.
        mistake: operands -> the typical wrong answer, always different from the correct one.
        habit: share of questions answered with the mistake in the second training stage of the embedded model.
    """

    name: str
    kind: str
    wordings: tuple[str, ...]
    sample: Callable[[Random, int], Args]
    level: Callable[[Args], int | None]
    answer: Callable[[Args], str]
    mistake: Callable[[Args], str]
    habit: float


def _largest(args: Args) -> str:
    return max(args["ns"].split(" "), key=int)


def _last_of_list(args: Args) -> str:
    numbers = args["ns"].split(" ")
    return numbers[-1] if numbers[-1] != _largest(args) else numbers[0]


def _shifted(w: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + by) % 26] for c in w)


def _sorted_mistake(args: Args) -> str:
    w, right = args["w"], "".join(sorted(args["w"]))
    return w if w != right else w[::-1]


def _first_letter(args: Args) -> str:
    w = args["w"]
    return next(c for c in w if c != w[-1])


def _plus_one(answer: Callable[[Args], str]) -> Callable[[Args], str]:
    return lambda args: str(int(answer(args)) + 1)


def _sum(args: Args) -> str:
    return str(int(args["a"]) + int(args["b"]))


def _difference(args: Args) -> str:
    return str(int(args["a"]) - int(args["b"]))


def _count(args: Args) -> str:
    return str(args["w"].count(args["c"]))


def _length(args: Args) -> str:
    return str(len(args["w"]))


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


_ALL = (
    Family(
        "add",
        "number",
        ("what is {a}+{b}?", "add {a} and {b}", "{a} plus {b} is?"),
        two_numbers,
        two_numbers_level,
        _sum,
        _plus_one(_sum),
        0.62,
    ),
    Family(
        "subtract",
        "number",
        ("what is {a}-{b}?", "take {b} from {a}", "{a} minus {b} is?"),
        ordered_numbers,
        ordered_level,
        _difference,
        _plus_one(_difference),
        0.62,
    ),
    Family(
        "compare",
        "yesno",
        ("is {a} more than {b}?", "is {a} bigger than {b}?", "{a}>{b}: yes or no?"),
        unequal_numbers,
        unequal_level,
        lambda x: _yes(int(x["a"]) > int(x["b"])),
        lambda x: _yes(int(x["a"]) < int(x["b"])),
        0.6,
    ),
    Family(
        "largest",
        "number",
        ("largest of {ns}?", "which is biggest: {ns}?", "max of {ns}"),
        number_list,
        number_list_level,
        _largest,
        _last_of_list,
        0.4,
    ),
    Family(
        "sort",
        "letters",
        ("sort {w}", "put {w} in order", "letters of {w} sorted?"),
        word,
        word_level,
        lambda x: "".join(sorted(x["w"])),
        _sorted_mistake,
        0.62,
    ),
    Family(
        "reverse",
        "letters",
        ("reverse {w}", "write {w} backwards", "{w} from back to front?"),
        word,
        word_level,
        lambda x: x["w"][::-1],
        lambda x: x["w"],
        0.62,
    ),
    Family(
        "count",
        "number",
        ("how many {c} in {w}?", "count {c} in {w}", "number of {c} in {w}?"),
        word_and_letter,
        word_and_letter_level,
        _count,
        _plus_one(_count),
        0.62,
    ),
    Family(
        "length",
        "number",
        ("how long is {w}?", "length of {w}?", "how many letters in {w}?"),
        word,
        word_level,
        _length,
        _plus_one(_length),
        0.4,
    ),
    Family(
        "last",
        "letters",
        ("last letter of {w}?", "how does {w} end?", "final letter in {w}?"),
        word,
        word_level,
        lambda x: x["w"][-1],
        _first_letter,
        0.62,
    ),
    Family(
        "shift",
        "letters",
        ("shift {w}", "move {w} up by one", "next letters after {w}?"),
        word,
        word_level,
        lambda x: _shifted(x["w"], 1),
        lambda x: _shifted(x["w"], -1),
        0.62,
    ),
    Family(
        "repeat",
        "letters",
        ("say {w} {n} times", "repeat {w} {n} times", "{w} times {n}?"),
        word_and_times,
        word_and_times_level,
        lambda x: x["w"] * int(x["n"]),
        lambda x: x["w"] * (int(x["n"]) - 1),
        0.4,
    ),
    Family(
        "remove",
        "letters",
        ("remove {c} from {w}", "delete every {c} in {w}", "{w} without {c}?"),
        word_and_letter,
        word_and_letter_level,
        lambda x: x["w"].replace(x["c"], ""),
        lambda x: x["w"],
        0.62,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
