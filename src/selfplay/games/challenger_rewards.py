"""What a Challenger is paid for a question, one function a published system.

Each takes what is known of a question after its G answers: the answers' rewards R, their qualities Q (0 where nobody
measures quality), the answers themselves, and whether the question is invalid (not one that can be judged). "Success"
is the mean reward, which then must lie in [0, 1]; "agreement" is the share of the commonest answer.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Protocol

from selfplay.core import SelfplayError
from selfplay.options import Range


class ChallengerPay(Protocol):
    """(rewards [G], qualities [G], answers [G], invalid) -> pay-off."""

    def __call__(
        self, rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool
    ) -> float: ...


def lsp(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """-V + V_Q: adversarial in the reward, of one interest in the quality (Language Self-Play, 2509.07414, 1.5)."""
    return fmean(qualities) - fmean(rewards)


def lsp_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """-V: the zero-sum game (Language Self-Play, 2509.07414, equations 1-3)."""
    return -fmean(rewards)


def absolute_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 - p for a question solved now and then, -0.5 for one never or always solved, -1 for an invalid one.

    Absolute Zero Reasoner (2505.03335): learnability 1 - p if p > 0 else 0, under its composite format reward.
    """
    p = _success(rewards, "absolute_zero")
    if invalid:
        return -1.0
    return 1.0 - p if 0.0 < p < 1.0 else -0.5


def r_zero(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 - 2 |p - 1/2| with p the agreement of the answers, -1 for an invalid question (R-Zero, 2508.05004)."""
    return -1.0 if invalid else 1.0 - 2.0 * abs(_agreeing(answers) / len(answers) - 0.5)


def sqlm(rewards: Sequence[float], qualities: Sequence[float], answers: Sequence[str], invalid: bool) -> float:
    """1 when more than one answer but not all agree with the commonest, else 0 (Self-Questioning LMs, 2508.03682)."""
    return float(not invalid and 1 < _agreeing(answers) < len(answers))


def spice(
    rewards: Sequence[float],
    qualities: Sequence[float],
    answers: Sequence[str],
    invalid: bool,
    sigma: Annotated[float, Range(0.001, 1000)] = 0.2,
) -> float:
    """exp(-(p - 1/2)^2 / (2 sigma^2)), -0.1 for an invalid question (after SPICE, 2510.24684; sigma is our choice)."""
    p = _success(rewards, "spice")
    return -0.1 if invalid else math.exp(-((p - 0.5) ** 2) / (2.0 * sigma**2))


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
