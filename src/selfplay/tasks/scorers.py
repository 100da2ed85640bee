"""Scorers of other packages that evaluate what they read; called through `selfplay.sandbox.bounded` alone.

This module is imported by the worker process: it must not import torch, and nothing of ours that does.
"""

import logging
from functools import lru_cache
from typing import Any

from selfplay.tasks.luck import seeded

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

    return float(verify(_parsed(answer), parse(reply, parsing_timeout=None), timeout_seconds=None))


def _parsed(answer: str) -> list[Any]:
    from math_verify import parse

    return list(parse(f"${answer}$", parsing_timeout=None) or parse(answer, parsing_timeout=None))
