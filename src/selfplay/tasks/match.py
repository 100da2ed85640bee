"""How a reply is compared with the right answer: each function takes the reply and the answer, and gives 0 or 1."""

import logging
import re
import threading
from collections import deque
from decimal import Decimal, InvalidOperation

from selfplay.core import SelfplayError

# A sign counts unless it is an operator: "= -5" is minus five, "10-5" ends with five.
NUMBER = re.compile(r"(?:(?<![0-9A-Za-z_.)])[-+−])?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+")
LAST = 2000  # characters at the end of a reply that `mathematics` reads; its parser takes seconds for long texts


def exact(reply: str, answer: str) -> float:
    """Same words: case, white space around and between words, and a full stop at the end do not count."""
    return float(_plain(reply) == _plain(answer))


def number(reply: str, answer: str) -> float:
    """Same last number, exactly, written in whatever way: "1,234.50" is "1234.5"; 0 where the reply has none.

    Raises:
        SelfplayError: the right answer has no number.
    """
    right = last_number(answer)
    if right is None:
        raise SelfplayError(
            f"the right answer '{answer[:80]}' has no number in it, so match=number cannot judge a reply; "
            "use selfplay.tasks.match.exact or mathematics"
        )
    return float(last_number(reply) == right)


def last_number(text: str) -> Decimal | None:
    """The last number of a text, with or without thousands separators, sign and decimals; None where there is none."""
    found = deque(NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    try:
        return Decimal(found[0][0].replace(",", "").replace("−", "-"))
    except InvalidOperation:  # longer than a Decimal can be: no right answer is
        return None


def mathematics(reply: str, answer: str) -> float:
    """Equal as mathematics, by math-verify: fractions, LaTeX, sets, intervals, what is in the last box.

    It reads the last 2,000 characters of the reply, and gives up on an expression after five seconds (in the main
    thread only: elsewhere a process cannot be interrupted). What it cannot read is not right.

    Raises:
        SelfplayError: math-verify is not installed, or cannot read the right answer.
    """
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise SelfplayError(
            f"match=mathematics needs the package math-verify ({error}); install it with: pip install 'selfplay[math]'"
        ) from error
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs every reply that it cannot read
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    right = parse(f"${answer}$", parsing_timeout=seconds) or parse(answer, parsing_timeout=seconds)
    if not right:
        raise SelfplayError(
            f"math-verify cannot read the right answer '{answer[:80]}'; correct it, or use selfplay.tasks.match.exact"
        )
    return float(verify(right, parse(reply[-LAST:], parsing_timeout=seconds), timeout_seconds=seconds))


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").rstrip().casefold()
