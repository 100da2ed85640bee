"""Compare a reply with the reference answer: functions (reply, answer) -> 0 or 1.

The thinking of a reply (`selfplay.thoughts`) is ignored.
"""

import re
from collections import deque
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from importlib.util import find_spec

from selfplay.core import SelfplayError
from selfplay.sandbox.bounded import Bounded, Exceeded
from selfplay.thoughts import said

# A sign belongs to the number unless it is an operator: "= -5" is minus five, "10-5" ends with five. So does a power
# of ten: 1.6e-19, 1.6 × 10^-19, 1.6 \\times 10^{-19}.
NUMBER = re.compile(
    r"((?:(?<![0-9A-Za-z_.)])[-+−])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+))"
    r"(?:[eE]([-+−]?[0-9]+)(?![0-9A-Za-z_])"
    r"|[ ]{0,2}(?:×|\\times|\\cdot|[x*·])[ ]{0,2}10[ ]{0,2}(?:\^|\*\*)[ ]{0,2}[{(]?([-+−]?[0-9]+)[)}]?)?"
)
BOXED = "\\boxed{"
MATHEMATICS = Bounded("selfplay.tasks.scorers")
LAST = 2000  # `mathematics` reads this many characters at the end of a reply, since its parser is slow on long texts


def exact(reply: str, answer: str) -> float:
    """Equal text, ignoring case, extra white space and a final full stop."""
    return float(_plain(said(reply)) == _plain(answer))


def number(reply: str, answer: str) -> float:
    """Exactly equal last numbers, in any notation: "1,234.50" equals "1234.5", "1e-05" equals "0.00001".

    0 if the reply has no number.

    Raises:
        SelfplayError: the reference answer has no number.
    """
    right = last_number(answer)
    if right is None:
        raise SelfplayError(
            f"the reference answer '{answer[:80]}' contains no number, so match=number cannot judge replies; "
            "use selfplay.tasks.match.exact or mathematics"
        )
    return float(last_number(said(reply)) == right)


def last_number(text: str) -> Decimal | None:
    """The last number in a text, with sign, decimals and power of ten; None if there is none."""
    found = deque(NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    try:
        size, written, spelt = (part.replace(",", "").replace("−", "-") for part in found[0].groups(""))
        return Decimal(f"{size}e{written or spelt or 0}")
    except InvalidOperation:  # beyond the range of Decimal, so not a correct answer
        return None


def mathematics(reply: str, answer: str) -> float:
    """Mathematical equality by math-verify: fractions, LaTeX, sets, intervals, \\boxed{} answers.

    The last 2,000 characters of the reply are parsed in a separate process (`selfplay.sandbox.bounded`). A reply that
    exceeds its limits of CPU time and memory, or cannot be parsed, scores 0. math-verify compares only six decimal
    places, which is meaningless for 1e-9, so numbers must also agree to six significant digits. As in math-verify,
    percent signs may be omitted.

    Raises:
        SelfplayError: math-verify is not installed, or cannot parse the reference answer.
    """
    if find_spec("math_verify") is None:
        raise SelfplayError(
            "match=mathematics needs the package math-verify; install it with: pip install 'selfplay[math]'"
        )
    MATHEMATICS.prepare("mathematics_ready")
    if not _readable(answer):
        raise SelfplayError(
            f"math-verify cannot parse the reference answer '{answer[:80]}'; fix it, or use selfplay.tasks.match.exact"
        )
    try:
        return float(MATHEMATICS.call("mathematics_score", said(reply)[-LAST:], answer))
    except Exceeded:
        return 0.0


def answer_in(match: Callable[[str, str], float], reply: str) -> str:
    """The answer in a reply, in a form that is equal for equal answers; "" if there is none.

    That is the last number for `number`; the content of the last \\boxed{} for `mathematics`, where there is one (equal
    formulas in different notations remain different); else the text, without what `exact` ignores.
    """
    kind, text = getattr(match, "func", match), said(reply)
    if kind is number:
        value = last_number(text)
        return "" if value is None else _canonical(value)
    if kind is mathematics and (boxed := _boxed(text[-LAST:])) is not None:
        return "".join(boxed.split())
    return _plain(text)


def _canonical(value: Decimal) -> str:
    """A number without zeros at its end, so that equal numbers are equal texts."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    zeros = next((i for i, digit in enumerate(reversed(digits)) if digit), None)
    if zeros is None:
        return "0"
    return str(Decimal((int(value < 0), digits[: len(digits) - zeros], exponent + zeros)))


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} with matching braces; None if there is none."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(BOXED)
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end]
    return None


@lru_cache(maxsize=4096)
def _readable(answer: str) -> bool:
    """Whether math-verify can parse a reference answer."""
    try:
        return bool(MATHEMATICS.call("mathematics_readable", answer))
    except Exceeded:
        return False


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").rstrip().casefold()
