"""Anytime-valid lower bounds: hand-worked numbers, coverage by simulation, and sharpness."""

from math import log, sqrt

import numpy as np
import pytest

from selfplay.core import SelfplayError
from selfplay.theory.confidence_sequence import LowerBound


def bound(values: list[float], aim: int, low: float = 0.0, high: float = 1.0, confidence: float = 0.95) -> float:
    return LowerBound(low, high, confidence, aim).add(values)


def test_one_observation_by_hand() -> None:
    """The first stake is sqrt(2 log 20 / (aim / 4)); capital 1 + min(stake, 3 / (4 m)) (1 - m) reaches 20 below m."""
    stake = sqrt(2 * log(20) / (0.25 * 2))
    assert stake == pytest.approx(3.4616, abs=1e-4)
    m = 3 / 4 / 19.75  # 1 + 0.75 (1 - m) / m = 20, where the stake is truncated: 3.46 < 0.75 / m fails
    assert 1 + min(stake, 0.75 / m) * (1 - m) < 20
    assert bound([1.0], 2) == 0.0, "a stake of 3.46 cannot win 20 at once"
    assert bound([1.0], 2, confidence=0.5) == pytest.approx(1 - 1 / sqrt(2 * log(2) / 0.5), abs=1e-8)


def test_two_observations_by_hand() -> None:
    """x = 1, 1 at alpha = 1/2: the second stake uses the variance (1/4 + (1 - 3/4)^2) / 2 of what came before."""
    first, second = sqrt(2 * log(2) / (0.25 * 9)), sqrt(2 * log(2) / ((0.25 + 0.0625) / 2 * 9))
    found = bound([1.0, 1.0], 9, confidence=0.5)
    assert 0 < found < 0.75 / second, "no stake is truncated there"
    assert (1 + first * (1 - found)) * (1 + second * (1 - found)) == pytest.approx(2, abs=1e-6)


def test_the_bound_is_the_same_whenever_it_is_looked_at() -> None:
    values = np.random.default_rng(3).uniform(-1, 2, 300).tolist()
    once, often = LowerBound(-1, 2, 0.9, 300), LowerBound(-1, 2, 0.9, 300)
    once.add(values)
    looks = [often.add(values[i : i + 7]) for i in range(0, 300, 7)]
    assert looks == sorted(looks) and often.bound == once.bound and often.count == 300
    assert often.mean == pytest.approx(np.mean(values))


def test_scaling_changes_nothing() -> None:
    values = np.random.default_rng(1).beta(2, 5, 200)
    assert bound((5 * values - 3).tolist(), 200, -3, 2) == pytest.approx(5 * bound(values.tolist(), 200) - 3, abs=1e-7)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("aim", [20, 200])
def test_coverage_at_all_times(p: float, aim: int) -> None:
    """Looked at after every observation up to three times the aim, the bound of a Bernoulli mean rarely exceeds it."""
    rng, runs, alpha = np.random.default_rng(round(100 * p) + aim), 600, 0.1
    missed = 0
    for _ in range(runs):
        values = (rng.random(3 * aim) < p).astype(float).tolist()
        missed += bound(values, aim, confidence=1 - alpha) > p  # the running maximum over all times
    assert missed / runs <= alpha + 2.6 * sqrt(alpha * (1 - alpha) / runs)


def test_dependent_observations_are_covered() -> None:
    """Each observation has the same mean given the past, but its spread follows from it."""
    rng, missed = np.random.default_rng(8), 0
    for _ in range(500):
        values: list[float] = []
        for _ in range(120):
            reach = 0.5 if not values or values[-1] > 0.5 else 0.05
            values.append(0.5 + reach * (1 if rng.random() < 0.5 else -1))
        missed += bound(values, 100, confidence=0.9) > 0.5
    assert missed / 500 <= 0.1 + 2.6 * sqrt(0.09 / 500)


def test_it_is_sharp_at_its_aim() -> None:
    """At the aim: a fifth of Hoeffding's distance if the spread is small, 1.7 of the normal bound's if not."""
    rng = np.random.default_rng(0)
    narrow = (0.5 + 0.05 * rng.standard_normal(2000)).clip(0, 1)
    found = bound(narrow.tolist(), 2000)
    assert narrow.mean() - found < 0.2 * sqrt(log(20) / (2 * 2000))
    wide = (rng.random(2000) < 0.5).astype(float)
    assert wide.mean() - bound(wide.tolist(), 2000) < 1.7 * 1.645 * 0.5 / sqrt(2000)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((1.0, 1.0, 0.95, 9), "observations lie between 1 and 1; give two ends"),
        ((0.0, 1.0, 1.0, 9), "the confidence is 1; give a number between 0 and 1"),
        ((0.0, 1.0, 0.9, 0), "aim"),
    ],
)
def test_what_makes_no_sense_is_refused(given: tuple[float, float, float, int], said: str) -> None:
    with pytest.raises(SelfplayError, match=said):
        LowerBound(*given)


def test_an_observation_outside_of_the_range() -> None:
    with pytest.raises(SelfplayError, match=r"an observation is 1\.5, outside of the range from 0 to 1"):
        bound([0.5, 1.5], 9)
    with pytest.raises(SelfplayError, match="an observation is nan"):
        bound([float("nan")], 9)
