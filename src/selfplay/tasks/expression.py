"""Find the only arithmetic expression in a text, and its exact value."""

import re
from dataclasses import dataclass
from itertools import pairwise

LONGEST = 1000  # characters; longer texts are not questions
MOST_NUMBERS, MOST_DIGITS, DEEPEST = 16, 18, 8  # limits of an expression
SIGNS = {"−": "-", "–": "-", "×": "*", "·": "*"}
FORBIDDEN = frozenset("/÷^%!<>√")  # other operations; not allowed anywhere in the text
TOKEN = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?![.,]?[0-9]|\w))"
    r"|(?P<sign>[-+*()−–×·])(?P<space>\s?)"
    r"|(?P<other>\w+|[^\S ]|\S)"  # other white space than a space separates expressions
)
# Words that would change the value of the expression, or are numbers themselves.
MEANING = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|"
    r"sixty|seventy|eighty|ninety|hundred|thousand|million|dozen|half|twice|thrice|double|triple|plus|minus|times|"
    r"divided|divide|over|squared?|cubed?|power|root|percent|mod|modulo|remainder|factorial|negative|reverse[d]?|"
    r"digits?|binary|hex(?:adecimal)?|roman|previous|again|same)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression of integers.

    Attributes:
        text: the expression without spaces: "12*(3-4)".
        value: its value.
        digits: number of digits of its longest number.
        operations: its operators in order: "*-".
    """

    text: str
    value: int
    digits: int
    operations: str


def find(text: str) -> Expression | None:
    """Find the expression in a text: integers with + - * and parentheses.

    None if there is not exactly one, if another number or a word such as "twice" would change the answer, or if it
    exceeds the limits above.
    """
    if len(text) > LONGEST or MEANING.search(text):
        return None
    spans: list[list[str]] = [[]]
    for token in TOKEN.finditer(text):
        if token["other"]:
            if token["other"] in FORBIDDEN or any(c.isnumeric() for c in token["other"]):
                return None
            spans.append([])
        elif token["number"]:
            spans[-1].append(token["number"].replace(",", ""))
        else:
            sign = SIGNS.get(token["sign"], token["sign"])
            if sign == "-" and token["space"] and not spans[-1]:
                spans.append([])  # a dash before the expression rather than a minus sign
            else:
                spans[-1].append(sign)
            if token["space"] not in ("", " "):
                spans.append([])
    found = [span for span in spans if any(word.isdigit() for word in span)]
    return _parsed(found[0]) if len(found) == 1 else None


def _parsed(words: list[str]) -> Expression | None:
    numbers = [word for word in words if word.isdigit()]
    operations = "".join(_operations(words))
    if not 2 <= len(numbers) <= MOST_NUMBERS or max(map(len, numbers)) > MOST_DIGITS or len(words) > 6 * MOST_NUMBERS:
        return None
    reader = _Reader(words)
    try:
        value = reader.sum(0)
    except _Malformed:
        return None
    return Expression("".join(words), value, max(map(len, numbers)), operations) if reader.at_end else None


def _operations(words: list[str]) -> list[str]:
    """The binary operators; unary minus is left out."""
    return [word for before, word in pairwise(words) if word in "+-*" and (before.isdigit() or before == ")")]


class _Malformed(Exception):
    """The tokens are not a valid expression."""


class _Reader:
    """A recursive-descent parser.

    sum = product (+ or - product)*; product = value (* value)*; value = - value, ( sum ), or a number.
    """

    def __init__(self, words: list[str]) -> None:
        self.words, self.place = words, 0

    @property
    def at_end(self) -> bool:
        return self.place == len(self.words)

    def sum(self, depth: int) -> int:
        total = self.product(depth)
        while self._next in ("+", "-"):
            total += self.product(depth) if self._take() == "+" else -self.product(depth)
        return total

    def product(self, depth: int) -> int:
        total = self.value(depth)
        while self._next == "*":
            self._take()
            total *= self.value(depth)
        return total

    def value(self, depth: int) -> int:
        if depth > DEEPEST or self.at_end:
            raise _Malformed
        word = self._take()
        if word == "-":
            return -self.value(depth + 1)
        if word == "(":
            inside = self.sum(depth + 1)
            if self.at_end or self._take() != ")":
                raise _Malformed
            return inside
        if not word.isdigit():
            raise _Malformed
        return int(word)

    @property
    def _next(self) -> str:
        return "" if self.at_end else self.words[self.place]

    def _take(self) -> str:
        self.place += 1
        return self.words[self.place - 1]
