"""Challenger payoffs: one function per published system.

Each function takes the results of a question's G answers: their rewards R, their qualities Q (0 without a quality
referee), the answers, and whether the question is invalid (cannot be judged). V is the mean reward and V_Q the mean
quality. If rewards lie in [0, 1], the mean reward is also the success rate p. The agreement is the fraction of answers
equal to the most common one.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Protocol

from selfplay.core import SelfplayError
from selfplay.options import NotNegative, OneOf, Range


class ChallengerPay(Protocol):
    """(rewards [G], qualities [G], answers [G], invalid) -> payoff."""

    def __call__(
        self, rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool
    ) -> float: ...


def lsp(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """-V + V_Q: adversarial in the reward, cooperative in the quality (Language Self-Play, 2509.07414, section 1.5)."""
    return fmean(qualities) - fmean(rewards)


def lsp_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """-V: the zero-sum game (Language Self-Play, 2509.07414, equations 1-3)."""
    return -fmean(rewards)


def absolute_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 - p for a question with success rate 0 < p < 1, -0.5 for p = 0 or 1, -1 for an invalid question.

    Absolute Zero Reasoner (2505.03335): learnability 1 - p if p > 0 else 0, under its composite format reward.
    """
    p = _success(rewards, "absolute_zero")
    if invalid:
        return -1.0
    return 1.0 - p if 0.0 < p < 1.0 else -0.5


def r_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 - 2 |p - 1/2|, where p is the agreement of the answers; -1 for an invalid question (R-Zero, 2508.05004)."""
    return -1.0 if invalid else 1.0 - 2.0 * abs(_agreeing(answers) / len(answers) - 0.5)


def sqlm(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 if at least two answers, and fewer than all, equal the most common one, else 0.

    Self-Questioning Language Models (2508.03682). An invalid question earns 0.
    """
    return float(not invalid and 1 < _agreeing(answers) < len(answers))


def spice(
    rewards: Sequence[float],
    qualities: Sequence[float],
    answers: Sequence[str],
    invalid: bool,
    sigma: Annotated[float, Range(0.001, 1000)] = 0.2,
) -> float:
    """exp(-(p - 1/2)^2 / (2 sigma^2)) of the success rate p; -0.1 for an invalid question (after SPICE, 2510.24684).

    Args:
        rewards: [G] rewards of the answers, from 0 to 1.
        qualities: unused.
        answers: unused.
        invalid: whether the question is invalid.
        sigma: width of the Gaussian; the default is our choice.
    """
    p = _success(rewards, "spice")
    return -0.1 if invalid else math.exp(-((p - 0.5) ** 2) / (2.0 * sigma**2))


def reverse_gen(
    rewards: Sequence[float],
    qualities: Sequence[float],
    answers: Sequence[str],
    invalid: bool,
    passing: Annotated[float, Range(0, 1, above=True)] = 0.5,
) -> float:
    """1 for a question that the target fails, with a mean reward below `passing`; 0 if it passes, -1 if it is invalid.

    After ReverseGen (2410.16736), where DPO prefers failing questions to passing ones. Ranking invalid questions below
    both is our choice; there they are filtered out.

    Args:
        rewards: [G] rewards of the answers, from 0 to 1.
        qualities: unused.
        answers: unused.
        invalid: whether the question is invalid.
        passing: the mean reward from which on the target passes.
    """
    p = _success(rewards, "reverse_gen")
    return -1.0 if invalid else float(p < passing)


def error_rate(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 - p for a valid question, the share of wrong answers; 0 for an invalid one. Zero-sum with the accuracy p."""
    return 0.0 if invalid else 1.0 - _success(rewards, "error_rate")


def family(
    rewards: Sequence[float],
    qualities: Sequence[float],
    answers: Sequence[str],
    invalid: bool,
    a: NotNegative = 1.0,
    b: NotNegative = 1.0,
    penalty: NotNegative = 1.0,
    quality: NotNegative = 0.0,
    of: Annotated[str, OneOf("reward", "agreement")] = "reward",
) -> float:
    """s^a (1 - s)^b, scaled to a maximum of 1, plus the weighted quality; -penalty for an invalid question.

    A family in which the smooth payoffs above are points or limits: a = 0, b = 1 is 1 - p, `lsp_zero` plus 1; a -> 0,
    b = 1 that of `absolute_zero` for 0 < p < 1; a = b = 1 is 4 s (1 - s), equal to `r_zero` at 0, 1/2 and 1; a = b = 3
    is near `spice`; a = b -> 0 is 1 unless all answers are alike, as in `sqlm`. Its maximum is at a / (a + b).

    Args:
        rewards: [G] rewards of the answers, from 0 to 1.
        qualities: [G] their qualities.
        answers: [G] the answers.
        invalid: whether the question is invalid.
        a: how much easy questions are preferred; 0: a question that nobody solves is not worth less.
        b: how much hard questions are preferred; 0: a question that everybody solves is not worth less.
        penalty: what an invalid question costs.
        quality: the weight of the mean quality.
        of: s is the success rate ("reward") or the agreement of the answers ("agreement").

    Raises:
        SelfplayError: `of` is neither, or a reward is not between 0 and 1.
    """
    if of not in ("reward", "agreement"):
        raise SelfplayError(f"challenger.of is '{of}'; choose reward or agreement")
    s = _success(rewards, "family") if of == "reward" else _agreeing(answers) / len(answers)
    if invalid:
        return -penalty
    peak = a / (a + b) if a + b > 0 else 0.5
    scaled: float = s**a * (1.0 - s) ** b / (peak**a * (1.0 - peak) ** b)
    return scaled + quality * fmean(qualities)


def _success(rewards: Sequence[float], name: str) -> float:
    for reward in rewards:
        if not 0.0 <= reward <= 1.0:
            raise SelfplayError(
                f"challenger={name} needs rewards between 0 and 1, but one is {reward:.3g}; "
                "use reward=verifier, or challenger=lsp with this reward"
            )
    return fmean(rewards)


def _agreeing(answers: Sequence[str]) -> int:
    return Counter(answers).most_common(1)[0][1]
