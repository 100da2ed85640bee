"""How a reply is compared with the right answer: each function takes the reply and the answer, and gives 0 or 1.

What a reply has only thought (`selfplay.thoughts`) is not looked at.
"""

import re
from collections import deque
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from importlib.util import find_spec

from selfplay.core import SelfplayError
from selfplay.sandbox.bounded import Bounded, Exceeded
from selfplay.thoughts import said

# A sign counts unless it is an operator: "= -5" is minus five, "10-5" ends with five. A power of ten is part of its
# number: 1.6e-19, 1.6 × 10^-19, 1.6 \\times 10^{-19}.
NUMBER = re.compile(
    r"((?:(?<![0-9A-Za-z_.)])[-+−])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+))"
    r"(?:[eE]([-+−]?[0-9]+)(?![0-9A-Za-z_])"
    r"|[ ]{0,2}(?:×|\\times|\\cdot|[x*·])[ ]{0,2}10[ ]{0,2}(?:\^|\*\*)[ ]{0,2}[{(]?([-+−]?[0-9]+)[)}]?)?"
)
MATHEMATICS = Bounded("selfplay.tasks.scorers")
LAST = 2000  # characters at the end of a reply that `mathematics` reads; its parser takes seconds for long texts


def exact(reply: str, answer: str) -> float:
    """Same words: case, white space around and between words, and a full stop at the end do not count."""
    return float(_plain(said(reply)) == _plain(answer))


def number(reply: str, answer: str) -> float:
    """Same last number, exactly, written in whatever way: "1,234.50" is "1234.5", "1e-05" is "0.00001".

    0 where the reply has none.

    Raises:
        SelfplayError: the right answer has no number.
    """
    right = last_number(answer)
    if right is None:
        raise SelfplayError(
            f"the right answer '{answer[:80]}' has no number in it, so match=number cannot judge a reply; "
            "use selfplay.tasks.match.exact or mathematics"
        )
    return float(last_number(said(reply)) == right)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, with its sign, decimals and power of ten if any; None where there is none."""
    found = deque(NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    try:
        size, written, spelt = (part.replace(",", "").replace("−", "-") for part in found[0].groups(""))
        return Decimal(f"{size}e{written or spelt or 0}")
    except InvalidOperation:  # longer than a Decimal can be: no right answer is
        return None


def mathematics(reply: str, answer: str) -> float:
    """Equal as mathematics, by math-verify: fractions, LaTeX, sets, intervals, what is in the last box.

    It reads the last 2,000 characters of the reply, in a process of its own (`selfplay.sandbox.bounded`); what takes
    more than its limits of processor time and memory is not right, nor is what it cannot read. math-verify compares
    decimals by their sixth place, which tells nothing of 1e-9, so numbers must also agree to six significant digits;
    percent signs may be left out, as there.

    Raises:
        SelfplayError: math-verify is not installed, or cannot read the right answer.
    """
    if find_spec("math_verify") is None:
        raise SelfplayError(
            "match=mathematics needs the package math-verify; install it with: pip install 'selfplay[math]'"
        )
    MATHEMATICS.prepare("mathematics_ready")
    if not _readable(answer):
        raise SelfplayError(
            f"math-verify cannot read the right answer '{answer[:80]}'; correct it, or use selfplay.tasks.match.exact"
        )
    try:
        return float(MATHEMATICS.call("mathematics_score", said(reply)[-LAST:], answer))
    except Exceeded:
        return 0.0


@lru_cache(maxsize=4096)
def _readable(answer: str) -> bool:
    """Whether math-verify can read a right answer."""
    try:
        return bool(MATHEMATICS.call("mathematics_readable", answer))
    except Exceeded:
        return False


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").rstrip().casefold()
