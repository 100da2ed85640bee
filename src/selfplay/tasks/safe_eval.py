"""What may be handed to code that evaluates what it reads: some scorers call Python's eval, or sympy's, on an answer.

This is a pre-check: it keeps out what does something else than arithmetic, and most of what would take long. The
evaluation itself runs under limits of the kernel (`selfplay.sandbox.bounded`).
"""

import ast
import re
from math import inf, log2

LONGEST = 500  # characters
MOST_BITS = 4096  # of any intermediate result: 1,233 decimal digits
FUNCTIONS = frozenset(
    ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "Abs")
)
CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
ENDLESS = re.compile(  # a power of a power, a huge exponent, a factorial: what is written in a line and never ends
    r"(?:\*\*|\^)[\s({+-]*[\w.]+[\s)}]*(?:\*\*|\^)|(?:\*\*|\^)[\s({+-]*[0-9]{4,}|[0-9.][eE][+-]?[0-9]{3,}|!"
)
NOT_ARITHMETIC = re.compile(r"__|[A-Za-z_]\s*\.|\.\s*[A-Za-z_]|[\])]\s*\(|[\[\]{}'\"\\:;@=<>`&|~]")
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # what Python's parser raises


def harmless(answer: str) -> bool:
    """Whether a text can be evaluated without doing anything else, and soon: plain data, or plain arithmetic.

    Names may stand in it, but only well-known functions may be called; no attribute, index, string or comparison. No
    intermediate result may be larger than `MOST_BITS`.
    """
    if len(answer) > LONGEST or ENDLESS.search(answer):
        return False
    if _literal(answer):
        return True
    if NOT_ARITHMETIC.search(answer) or not set(CALL.findall(answer)) <= FUNCTIONS:
        return False
    try:
        return _bits(ast.parse(answer.strip().replace("^", "**"), mode="eval").body) <= MOST_BITS
    except UNREADABLE:  # a board or a list of words: whatever else it is, it is no arithmetic of Python
        return True


def _literal(text: str) -> bool:
    """Whether Python reads it as numbers, strings, lists and the like."""
    try:
        ast.literal_eval(text)
    except UNREADABLE:
        return False
    return True


def _bits(node: ast.AST) -> float:
    """A bound on the size of every number that computing an expression makes, in bits of numerator and denominator.

    Names count as small numbers, functions as floats.
    """
    if isinstance(node, ast.Constant):
        return _bits_of(node.value)
    if isinstance(node, ast.UnaryOp):
        return _bits(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _bits(node.left), _bits(node.right)
        if isinstance(node.op, ast.Pow):
            return _power(left, right, node.right)
        if isinstance(node.op, ast.LShift):
            return inf
        return left + right + 1
    return max((_bits(part) for part in ast.iter_child_nodes(node)), default=8.0) + 64


def _power(base: float, exponent: float, node: ast.AST) -> float:
    """The size of a power: the base's, as often as the exponent may be large."""
    while isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return max(base, base * abs(node.value))
    return base * 2.0**exponent if exponent < 64 else inf


def _bits_of(value: object) -> float:
    if isinstance(value, int | float):
        return log2(abs(value) + 1) + 1 if abs(value) < 1e300 else inf
    return 64.0
