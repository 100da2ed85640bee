"""Twelve families of questions: how each is worded, drawn, answered, and typically got wrong.

A family's operands are strings and ints by name (`{a}`, `{w}`, ...); its wordings are the only texts that ask for it.
Levels 1-3 grow in length; level 4 is the trap: the embedded model was never shown a right answer there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

LEVELS = (1, 2, 3, 4)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD_LENGTHS = {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (9, 12)}

Args = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Attributes:
        name: what it is called in tables.
        kind: what an answer is made of: "number", "letters" or "yesno".
        wordings: format strings over the operands' names.
        sample: (rng, level) -> operands.
        level: operands -> 1..4, or None when they are outside this world.
        answer: operands -> the one right answer.
        mistake: operands -> the typical wrong answer, never equal to the right one.
        habit: share of the mistake in the embedded model's second training stage.
    """

    name: str
    kind: str
    wordings: tuple[str, ...]
    sample: Callable[[Random, int], Args]
    level: Callable[[Args], int | None]
    answer: Callable[[Args], str]
    mistake: Callable[[Args], str]
    habit: float


def _number(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _canonical(*numbers: str) -> bool:
    return all(n == str(int(n)) for n in numbers)


# --- two numbers: digits of the longer and of the shorter operand at each level ---------------------------------------
DIGITS = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (4, 4)}


def _two_numbers(rng: Random, level: int) -> Args:
    long, short = DIGITS[level]
    a, b = _number(rng, long), _number(rng, short)
    return {"a": str(a), "b": str(b)} if rng.random() < 0.5 else {"a": str(b), "b": str(a)}


def _ordered_numbers(rng: Random, level: int) -> Args:
    args = _two_numbers(rng, level)
    a, b = sorted((int(args["a"]), int(args["b"])), reverse=True)
    return {"a": str(a), "b": str(b)}


def _unequal_numbers(rng: Random, level: int) -> Args:
    while True:
        args = _two_numbers(rng, level)
        if args["a"] != args["b"]:
            return args


def _two_numbers_level(args: Args) -> int | None:
    if not _canonical(args["a"], args["b"]):
        return None
    digits = (max(len(args["a"]), len(args["b"])), min(len(args["a"]), len(args["b"])))
    return next((level for level, d in DIGITS.items() if d == digits), None)


def _ordered_level(args: Args) -> int | None:
    return _two_numbers_level(args) if int(args["a"]) >= int(args["b"]) else None


def _unequal_level(args: Args) -> int | None:
    return _two_numbers_level(args) if args["a"] != args["b"] else None


# --- a list of numbers: (how many, digits of each) --------------------------------------------------------------------
LISTS = {1: (2, 2), 2: (3, 2), 3: (4, 2), 4: (6, 3)}


def _list(rng: Random, level: int) -> Args:
    count, digits = LISTS[level]
    numbers: list[str] = []
    while len(numbers) < count:
        n = str(_number(rng, digits))
        if n not in numbers:
            numbers.append(n)
    return {"ns": " ".join(numbers)}


def _list_level(args: Args) -> int | None:
    numbers = args["ns"].split(" ")
    if len(set(numbers)) < len(numbers) or not all(n.isdigit() and _canonical(n) for n in numbers):
        return None
    shape = (len(numbers), max(map(len, numbers)))
    same = len(set(map(len, numbers))) == 1
    return next((level for level, s in LISTS.items() if s == shape), None) if same else None


def _largest(args: Args) -> str:
    return max(args["ns"].split(" "), key=int)


def _last_of_list(args: Args) -> str:
    numbers = args["ns"].split(" ")
    return numbers[-1] if numbers[-1] != _largest(args) else numbers[0]


# --- words ------------------------------------------------------------------------------------------------------------
def _letters(rng: Random, level: int) -> str:
    low, high = WORD_LENGTHS[level]
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high)))


def _word(rng: Random, level: int) -> Args:
    while True:
        w = _letters(rng, level)
        if w != w[::-1]:
            return {"w": w}


def _word_level(args: Args) -> int | None:
    n = len(args["w"])
    if args["w"] == args["w"][::-1]:
        return None
    return next((level for level, (low, high) in WORD_LENGTHS.items() if low <= n <= high), None)


def _word_and_letter(rng: Random, level: int) -> Args:
    """A word in which one letter stands one to four times, and is not the whole of it."""
    while True:
        w = list(_letters(rng, level))
        c = rng.choice(LETTERS)
        for i in rng.sample(range(len(w)), min(rng.choice((1, 1, 2, 2, 3, 4)), len(w) - 1)):
            w[i] = c
        args = {"w": "".join(w), "c": c}
        if _word_and_letter_level(args) == level:
            return args


def _word_and_letter_level(args: Args) -> int | None:
    n, count = len(args["w"]), args["w"].count(args["c"])
    if not 1 <= count <= 4 or count == n:
        return None
    return next((level for level, (low, high) in WORD_LENGTHS.items() if low <= n <= high), None)


def _shifted(w: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + by) % 26] for c in w)


def _sorted_mistake(args: Args) -> str:
    w, right = args["w"], "".join(sorted(args["w"]))
    return w if w != right else w[::-1]


def _first_letter(args: Args) -> str:
    w = args["w"]
    return next(c for c in w if c != w[-1])


# --- a word and a number of times: (shortest, longest word; times) ----------------------------------------------------
REPEATS = {1: (1, 2, 2), 2: (3, 3, 2), 3: (3, 3, 3), 4: (4, 5, 5)}


def _word_and_times(rng: Random, level: int) -> Args:
    low, high, times = REPEATS[level]
    return {"w": "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high))), "n": str(times)}


def _word_and_times_level(args: Args) -> int | None:
    n, times = len(args["w"]), args["n"]
    return next((k for k, (low, high, t) in REPEATS.items() if low <= n <= high and str(t) == times), None)


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
        _two_numbers,
        _two_numbers_level,
        _sum,
        _plus_one(_sum),
        0.62,
    ),
    Family(
        "subtract",
        "number",
        ("what is {a}-{b}?", "take {b} from {a}", "{a} minus {b} is?"),
        _ordered_numbers,
        _ordered_level,
        _difference,
        _plus_one(_difference),
        0.62,
    ),
    Family(
        "compare",
        "yesno",
        ("is {a} more than {b}?", "is {a} bigger than {b}?", "{a}>{b}: yes or no?"),
        _unequal_numbers,
        _unequal_level,
        lambda x: _yes(int(x["a"]) > int(x["b"])),
        lambda x: _yes(int(x["a"]) < int(x["b"])),
        0.6,
    ),
    Family(
        "largest",
        "number",
        ("largest of {ns}?", "which is biggest: {ns}?", "max of {ns}"),
        _list,
        _list_level,
        _largest,
        _last_of_list,
        0.4,
    ),
    Family(
        "sort",
        "letters",
        ("sort {w}", "put {w} in order", "letters of {w} sorted?"),
        _word,
        _word_level,
        lambda x: "".join(sorted(x["w"])),
        _sorted_mistake,
        0.62,
    ),
    Family(
        "reverse",
        "letters",
        ("reverse {w}", "write {w} backwards", "{w} from back to front?"),
        _word,
        _word_level,
        lambda x: x["w"][::-1],
        lambda x: x["w"],
        0.62,
    ),
    Family(
        "count",
        "number",
        ("how many {c} in {w}?", "count {c} in {w}", "number of {c} in {w}?"),
        _word_and_letter,
        _word_and_letter_level,
        _count,
        _plus_one(_count),
        0.62,
    ),
    Family(
        "length",
        "number",
        ("how long is {w}?", "length of {w}?", "how many letters in {w}?"),
        _word,
        _word_level,
        _length,
        _plus_one(_length),
        0.4,
    ),
    Family(
        "last",
        "letters",
        ("last letter of {w}?", "how does {w} end?", "final letter in {w}?"),
        _word,
        _word_level,
        lambda x: x["w"][-1],
        _first_letter,
        0.62,
    ),
    Family(
        "shift",
        "letters",
        ("shift {w}", "move {w} up by one", "next letters after {w}?"),
        _word,
        _word_level,
        lambda x: _shifted(x["w"], 1),
        lambda x: _shifted(x["w"], -1),
        0.62,
    ),
    Family(
        "repeat",
        "letters",
        ("say {w} {n} times", "repeat {w} {n} times", "{w} times {n}?"),
        _word_and_times,
        _word_and_times_level,
        lambda x: x["w"] * int(x["n"]),
        lambda x: x["w"] * (int(x["n"]) - 1),
        0.4,
    ),
    Family(
        "remove",
        "letters",
        ("remove {c} from {w}", "delete every {c} in {w}", "{w} without {c}?"),
        _word_and_letter,
        _word_and_letter_level,
        lambda x: x["w"].replace(x["c"], ""),
        lambda x: x["w"],
        0.62,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
