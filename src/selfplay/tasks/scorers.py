"""Scorers of other packages that evaluate what they read; called through `selfplay.sandbox.bounded` alone.

This module is imported by the worker process: it must not import torch, and nothing of ours that does.
"""

import logging
from functools import lru_cache
from typing import Any

from selfplay.tasks.seeding import seeded

SIX_DIGITS = 5e-6  # of a number: half a unit of its sixth significant digit is at most that
Options = tuple[tuple[str, Any], ...]
# what a scorer raises at an answer that is none; at a right one it would have been seen when the questions were made
UNREADABLE = (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, SyntaxError)


@lru_cache(maxsize=256)
def reasoning_gym_set(name: str, options: Options, size: int, number: int, luck: str) -> Any:
    """A data set of Reasoning Gym, without its questions made."""
    import reasoning_gym

    with seeded(luck):
        return reasoning_gym.create_dataset(name, size=size, seed=number, **dict(options))


def reasoning_gym_score(dataset: tuple[Any, ...], record: dict[str, Any], answer: str, luck: str) -> float:
    """What the data set's own scorer gives the answer; 0 where it cannot read it."""
    scorer = reasoning_gym_set(*dataset)
    try:
        with seeded(luck):
            return float(scorer.score_answer(answer, record))
    except UNREADABLE:
        return 0.0


def mathematics_ready() -> None:
    """Load math-verify with its grammar, and keep it from logging every reply that it cannot read."""
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    mathematics_score("$\\frac{1}{2}$", "0.5")


def mathematics_readable(answer: str) -> bool:
    """Whether math-verify can read an answer."""
    return bool(_parsed(answer))


def mathematics_score(reply: str, answer: str) -> float:
    """1 if the reply equals the answer as mathematics, else 0. Both sides are parsed without time limits."""
    from math_verify import parse, verify

    right, given = _parsed(answer), parse(reply, parsing_timeout=None)
    return float(verify(right, given, timeout_seconds=None) and _near(right[0], given[0]))


def _parsed(answer: str) -> list[Any]:
    from math_verify import parse

    return list(parse(f"${answer}$", parsing_timeout=None) or parse(answer, parsing_timeout=None))


def _near(right: Any, given: Any) -> bool:
    """Whether two sympy expressions agree to six digits wherever both hold a number in the same place."""
    import sympy  # type: ignore[import-untyped]

    if not (isinstance(right, sympy.Basic) and isinstance(given, sympy.Basic)) or right == given:
        return True
    if isinstance(right, sympy.FiniteSet) and isinstance(given, sympy.FiniteSet):
        try:  # numbers in their order; else math-verify alone has compared them
            sides = [sorted(side.args, key=float) for side in (right, given)]
        except (TypeError, ValueError):
            return True
        return all(_near(one, other) for one, other in zip(*sides, strict=False))
    if getattr(right, "is_number", False) and getattr(given, "is_number", False):
        one, other = (complex(sympy.N(x, 30)) for x in (right, given))
        if not 0 < max(abs(one), abs(other)) < 1:
            return True  # here a sixth place says as much, or more
        units = (other, 100 * other, other / 100)
        return any(abs(one - x) <= SIX_DIGITS * max(abs(one), abs(x)) for x in units)
    if right.func == given.func and len(right.args) == len(given.args):
        return all(_near(one, other) for one, other in zip(right.args, given.args, strict=True))
    return True
