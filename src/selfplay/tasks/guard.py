"""What may be handed to code that computes what it reads: some scorers call Python's eval, or sympy's, on an answer."""

import ast
import re

LONGEST = 500  # characters
FUNCTIONS = frozenset(
    ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "Abs")
)
CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
ENDLESS = re.compile(  # a power of a power, a huge exponent, a factorial: what is written in a line and never ends
    r"(?:\*\*|\^)[\s({+-]*[\w.]+[\s)}]*(?:\*\*|\^)|(?:\*\*|\^)[\s({+-]*[0-9]{4,}|[0-9.][eE][+-]?[0-9]{3,}|!"
)
NOT_ARITHMETIC = re.compile(r"__|[A-Za-z_]\s*\.|\.\s*[A-Za-z_]|[\])]\s*\(|[\[\]{}'\"\\:;@=<>`&|~]")


def harmless(answer: str) -> bool:
    """Whether a text can be computed without doing anything else, and soon: plain data, or plain arithmetic.

    Names may stand in it, but only well-known functions may be called; no attribute, index, string or comparison.
    """
    if len(answer) > LONGEST or ENDLESS.search(answer):
        return False
    if _literal(answer):
        return True
    return not NOT_ARITHMETIC.search(answer) and set(CALL.findall(answer)) <= FUNCTIONS


def _literal(text: str) -> bool:
    """Whether Python reads it as numbers, strings, lists and the like."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True
