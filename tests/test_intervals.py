"""Intervals of evaluations are scipy.stats' own."""

from math import inf, isnan, nan
from random import Random

import pytest
from scipy import stats

from selfplay.evaluations.intervals import student, wilson


@pytest.mark.parametrize("count", [1, 2, 7, 288])
def test_wilson(count: int) -> None:
    for successes in {0, 1, count // 3, count - 1, count}:
        right = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
        assert wilson(successes, count) == pytest.approx([right.low, right.high], abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 20, 288])
def test_student(count: int) -> None:
    values = [Random(i).gauss(1, 2) for i in range(count)]
    low, high = stats.t.interval(0.95, count - 1, loc=0, scale=stats.sem(values))
    assert (-student(values), student(values)) == pytest.approx((low, high))
    assert isnan(student(values[:1])) and isnan(student([*values, nan])) and isnan(student([*values, inf]))
