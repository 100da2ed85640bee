"""Operands of the tiny world's questions: sampling them at a level, and finding the level of given ones."""

from collections.abc import Mapping
from random import Random

LEVELS = (1, 2, 3, 4)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD_LENGTHS = {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (9, 12)}

Args = Mapping[str, str]


def number(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def canonical(*numbers: str) -> bool:
    return all(n == str(int(n)) for n in numbers)


# --- two numbers: digits of the longer and of the shorter operand at each level ---------------------------------------
DIGITS = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (4, 4)}


def two_numbers(rng: Random, level: int) -> Args:
    long, short = DIGITS[level]
    a, b = number(rng, long), number(rng, short)
    return {"a": str(a), "b": str(b)} if rng.random() < 0.5 else {"a": str(b), "b": str(a)}


def ordered_numbers(rng: Random, level: int) -> Args:
    args = two_numbers(rng, level)
    a, b = sorted((int(args["a"]), int(args["b"])), reverse=True)
    return {"a": str(a), "b": str(b)}


def unequal_numbers(rng: Random, level: int) -> Args:
    while True:
        args = two_numbers(rng, level)
        if args["a"] != args["b"]:
            return args


def two_numbers_level(args: Args) -> int | None:
    if not canonical(args["a"], args["b"]):
        return None
    digits = (max(len(args["a"]), len(args["b"])), min(len(args["a"]), len(args["b"])))
    return next((level for level, d in DIGITS.items() if d == digits), None)


def ordered_level(args: Args) -> int | None:
    return two_numbers_level(args) if int(args["a"]) >= int(args["b"]) else None


def unequal_level(args: Args) -> int | None:
    return two_numbers_level(args) if args["a"] != args["b"] else None


# --- a list of numbers: (how many, digits of each) --------------------------------------------------------------------
LISTS = {1: (2, 2), 2: (3, 2), 3: (4, 2), 4: (6, 3)}


def number_list(rng: Random, level: int) -> Args:
    count, digits = LISTS[level]
    numbers: list[str] = []
    while len(numbers) < count:
        n = str(number(rng, digits))
        if n not in numbers:
            numbers.append(n)
    return {"ns": " ".join(numbers)}


def number_list_level(args: Args) -> int | None:
    numbers = args["ns"].split(" ")
    if len(set(numbers)) < len(numbers) or not all(n.isdigit() and canonical(n) for n in numbers):
        return None
    shape = (len(numbers), max(map(len, numbers)))
    same = len(set(map(len, numbers))) == 1
    return next((level for level, s in LISTS.items() if s == shape), None) if same else None


# --- words ------------------------------------------------------------------------------------------------------------
def letters(rng: Random, level: int) -> str:
    low, high = WORD_LENGTHS[level]
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high)))


def word(rng: Random, level: int) -> Args:
    while True:
        w = letters(rng, level)
        if w != w[::-1]:
            return {"w": w}


def word_level(args: Args) -> int | None:
    n = len(args["w"])
    if args["w"] == args["w"][::-1]:
        return None
    return next((level for level, (low, high) in WORD_LENGTHS.items() if low <= n <= high), None)


def word_and_letter(rng: Random, level: int) -> Args:
    """Sample a word and a letter that occurs in it one to four times, beside other letters."""
    while True:
        w = list(letters(rng, level))
        c = rng.choice(LETTERS)
        for i in rng.sample(range(len(w)), min(rng.choice((1, 1, 2, 2, 3, 4)), len(w) - 1)):
            w[i] = c
        args = {"w": "".join(w), "c": c}
        if word_and_letter_level(args) == level:
            return args


def word_and_letter_level(args: Args) -> int | None:
    n, count = len(args["w"]), args["w"].count(args["c"])
    if not 1 <= count <= 4 or count == n:
        return None
    return next((level for level, (low, high) in WORD_LENGTHS.items() if low <= n <= high), None)


# --- a word and a number of times: (shortest, longest word; times) ----------------------------------------------------
REPEATS = {1: (1, 2, 2), 2: (3, 3, 2), 3: (3, 3, 3), 4: (4, 5, 5)}


def word_and_times(rng: Random, level: int) -> Args:
    low, high, times = REPEATS[level]
    return {"w": "".join(rng.choice(LETTERS) for _ in range(rng.randint(low, high))), "n": str(times)}


def word_and_times_level(args: Args) -> int | None:
    n, times = len(args["w"]), args["n"]
    return next((k for k, (low, high, t) in REPEATS.items() if low <= n <= high and str(t) == times), None)
