"""Scorers of other packages that evaluate untrusted text; call them only through `selfplay.sandbox.bounded`.

The worker process imports this module, so it must not import torch, directly or indirectly.
"""

import logging
from functools import lru_cache
from typing import Any

from selfplay.tasks.seeding import seeded

SIX_DIGITS = 5e-6  # relative tolerance: at most half a unit of the sixth significant digit
Options = tuple[tuple[str, Any], ...]
# raised by scorers for malformed answers
UNREADABLE = (TypeError, AttributeError, ValueError, ArithmeticError, LookupError, SyntaxError)


@lru_cache(maxsize=256)
def reasoning_gym_set(name: str, options: Options, size: int, number: int, seed: str) -> Any:
    """Create a data set of Reasoning Gym, whose questions are generated lazily.

    Args:
        name, options, size: the data set, its parameters and number of questions.
        number: the data set's seed.
        seed: seeds the global RNGs while it is created.
    """
    import reasoning_gym

    with seeded(seed):
        return reasoning_gym.create_dataset(name, size=size, seed=number, **dict(options))


def reasoning_gym_score(dataset: tuple[Any, ...], record: dict[str, Any], answer: str, seed: str) -> float:
    """Score an answer with the data set's own scorer; 0 if it raises. `seed` seeds the global RNGs."""
    scorer = reasoning_gym_set(*dataset)
    try:
        with seeded(seed):
            return float(scorer.score_answer(answer, record))
    except UNREADABLE:
        return 0.0


def mathematics_ready() -> None:
    """Load math-verify with its grammar, and silence its log messages about unreadable replies."""
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    mathematics_score("$\\frac{1}{2}$", "0.5")


def mathematics_readable(answer: str) -> bool:
    """Whether math-verify can parse an answer."""
    return bool(_parsed(answer))


def mathematics_score(reply: str, answer: str) -> float:
    """1 if the reply is mathematically equal to the answer, else 0. Parsing has no time limit of its own."""
    from math_verify import parse, verify

    right, given = _parsed(answer), parse(reply, parsing_timeout=None)
    return float(verify(right, given, timeout_seconds=None) and _near(right[0], given[0]))


def _parsed(answer: str) -> list[Any]:
    from math_verify import parse

    return list(parse(f"${answer}$", parsing_timeout=None) or parse(answer, parsing_timeout=None))


def _near(right: Any, given: Any) -> bool:
    """Whether two sympy expressions agree to six significant digits wherever both have a number."""
    import sympy  # type: ignore[import-untyped]

    if not (isinstance(right, sympy.Basic) and isinstance(given, sympy.Basic)) or right == given:
        return True
    if isinstance(right, sympy.FiniteSet) and isinstance(given, sympy.FiniteSet):
        try:  # sorted numbers; if not all are numbers, rely on math-verify
            sides = [sorted(side.args, key=float) for side in (right, given)]
        except (TypeError, ValueError):
            return True
        return all(_near(one, other) for one, other in zip(*sides, strict=False))
    if getattr(right, "is_number", False) and getattr(given, "is_number", False):
        one, other = (complex(sympy.N(x, 30)) for x in (right, given))
        if not 0 < max(abs(one), abs(other)) < 1:
            return True  # here six decimal places are at least as strict
        units = (other, 100 * other, other / 100)
        return any(abs(one - x) <= SIX_DIGITS * max(abs(one), abs(x)) for x in units)
    if right.func == given.func and len(right.args) == len(given.args):
        return all(_near(one, other) for one, other in zip(right.args, given.args, strict=True))
    return True
