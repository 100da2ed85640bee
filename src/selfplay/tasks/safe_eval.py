"""Filter answers before scorers that call Python's or sympy's eval on them.

This pre-check rejects everything except data and arithmetic, and most expressions that would take long. The evaluation
itself runs under kernel resource limits (`selfplay.sandbox.bounded`).
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
ENDLESS = re.compile(  # nested powers, huge exponents, factorials: short expressions that take forever
    r"(?:\*\*|\^)[\s({+-]*[\w.]+[\s)}]*(?:\*\*|\^)|(?:\*\*|\^)[\s({+-]*[0-9]{4,}|[0-9.][eE][+-]?[0-9]{3,}|!"
)
NOT_ARITHMETIC = re.compile(r"__|[A-Za-z_]\s*\.|\.\s*[A-Za-z_]|[\])]\s*\(|[\[\]{}'\"\\:;@=<>`&|~]")
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # raised by Python's parser


def harmless(answer: str) -> bool:
    """Whether a text can be evaluated quickly and without side effects: a literal, or plain arithmetic.

    Arithmetic may contain names, but may call only `FUNCTIONS`, and has no attributes, indices, strings or comparisons.
    No intermediate result may exceed `MOST_BITS`.
    """
    if len(answer) > LONGEST or ENDLESS.search(answer):
        return False
    if _literal(answer):
        return True
    if NOT_ARITHMETIC.search(answer) or not set(CALL.findall(answer)) <= FUNCTIONS:
        return False
    try:
        return _bits(ast.parse(answer.strip().replace("^", "**"), mode="eval").body) <= MOST_BITS
    except UNREADABLE:  # e.g. a board or a list of words, which Python cannot evaluate
        return True


def _literal(text: str) -> bool:
    """Whether it is a Python literal: numbers, strings, lists and the like."""
    try:
        ast.literal_eval(text)
    except UNREADABLE:
        return False
    return True


def _bits(node: ast.AST) -> float:
    """An upper bound on the size of all intermediate results of an expression, in bits of numerator and denominator.

    Names count as small numbers, function values as floats.
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
    """An upper bound on the size of a power: base bits x the largest possible exponent."""
    while isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return max(base, base * abs(node.value))
    return base * 2.0**exponent if exponent < 64 else inf


def _bits_of(value: object) -> float:
    if isinstance(value, int | float):
        return log2(abs(value) + 1) + 1 if abs(value) < 1e300 else inf
    return 64.0
