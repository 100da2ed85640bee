"""Intervals against scipy's, and their coverage, summed over every outcome instead of drawn."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from selfplay.evaluations.held_out import Score, gain
from selfplay.runs.progress import closing_table
from selfplay.tasks.task import Item
from selfplay.theory.intervals import as_list, bounded, change, share, student

PROMISED = 0.93  # the least coverage of an interval that is called 95 %
SIZES = (8, 16, 32, 64, 128, 256, 576)
SHARES = np.array([0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
Floats = NDArray[np.float64]


def least_coverage(low: Floats, high: Floats, count: int) -> float:
    """Of intervals by the number of successes, over all shares: coverage is least just beside an interval's end."""
    p = np.concatenate([end + step for end in (low, high) for step in (-1e-9, 1e-9)])
    p = p[(p > 0) & (p < 1)]
    last, first = np.searchsorted(low, p, side="right") - 1, np.searchsorted(high, p, side="left")
    below = np.where(first > 0, special.bdtr(np.maximum(first - 1, 0), count, p), 0.0)
    return float((special.bdtr(last, count, p) - below).min())


def test_a_share_is_covered_whatever_it_is_and_however_many_trials() -> None:
    for count in (*range(1, 130), *SIZES[-2:], 1000):
        low, high = share(np.arange(count + 1), count)
        assert least_coverage(low, high, count) >= PROMISED, count


@pytest.mark.parametrize("count", SIZES)
def test_a_share_is_covered_at_these_points(count: int) -> None:
    """The same by scipy's binomial, so that the sum above is checked, too."""
    successes = np.arange(count + 1)
    low, high = share(successes, count)
    for p in SHARES:
        assert stats.binom.pmf(successes, count, p)[(low <= p) & (p <= high)].sum() >= PROMISED


@pytest.mark.parametrize("count", [1, 2, 7, 288])
def test_a_share_is_wilsons_where_that_covers_and_else_clopper_and_pearsons(count: int) -> None:
    for successes in range(count + 1):
        found = stats.binomtest(successes, count)
        wilson, exact = found.proportion_ci(0.95, method="wilson"), found.proportion_ci(0.94, method="exact")
        low, high = (float(end) for end in share(successes, count))
        kept = count >= 6
        right_low = wilson.low if kept and successes == count else min(wilson.low, exact.low)
        right_high = wilson.high if kept and successes == 0 else max(wilson.high, exact.high)
        assert (low, high) == (pytest.approx(right_low, abs=1e-12), pytest.approx(right_high, abs=1e-12))


def test_what_never_failed_is_not_certain() -> None:
    assert as_list(share(8, 8)) == [pytest.approx(0.676, abs=5e-4), 1.0]
    assert as_list(share(0, 8)) == [0.0, pytest.approx(1 - 0.676, abs=5e-4)]


# --- changes on the same questions ------------------------------------------------------------------------------------


def outcomes(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (better, worse) of so many questions."""
    better, worse = np.divmod(np.arange((count + 1) ** 2), count + 1)
    possible = better + worse <= count
    return better[possible], worse[possible]


def trinomial(better: NDArray[np.int64], worse: NDArray[np.int64], count: int, p: float, q: float) -> Floats:
    rest, log = count - better - worse, special.gammaln
    ways = log(count + 1) - log(better + 1) - log(worse + 1) - log(rest + 1)
    return np.exp(ways + special.xlogy(better, p) + special.xlogy(worse, q) + special.xlogy(rest, max(1 - p - q, 0.0)))


CHANGES = (0.0, 0.0002, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.995, 1.0)
WORSE = (0.0, 0.0005, 0.002, 0.01, 0.05, 0.1, 0.2, 0.3, 0.45)


@pytest.mark.parametrize("count", [2, *SIZES])
def test_a_change_is_covered(count: int) -> None:
    """From no change to one of 99 points, with few and with many questions that changed for the worse."""
    better, worse = outcomes(count)
    low, high = change(better, worse, count)
    for gained in CHANGES:
        for q in WORSE:
            if gained + 2 * q > 1:
                continue
            covered = (low <= gained + 1e-12) & (gained <= high + 1e-12)
            likely = trinomial(better[covered], worse[covered], count, gained + q, q)
            assert likely.sum() >= PROMISED, (gained, q)


def test_a_change_is_as_sure_for_the_better_as_for_the_worse() -> None:
    better, worse = outcomes(20)
    (low, high), (other_low, other_high) = change(better, worse, 20), change(worse, better, 20)
    assert np.allclose(low, -other_high) and np.allclose(high, -other_low)
    assert (low < (better - worse) / 20).any() and (high - low > 0.05).all()
    assert (low <= (better - worse) / 20).all() and (high >= (better - worse) / 20).all()


def test_many_changes_have_the_interval_of_their_mean() -> None:
    """Student's t, which is right for many: 150 better, 50 worse of 20,000."""
    values = np.repeat([1.0, -1.0, 0.0], [1500, 500, 18_000])
    assert as_list(change(1500, 500, 20_000)) == pytest.approx(list(student(values)), abs=2e-4)


def test_the_gain_of_one_question_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert gain({"correct": "0"}, {"correct": "1"}) == {"gain": 1.0, "interval": None}
    found = gain({"correct": "0011"}, {"correct": "0111"})
    assert found["gain"] == 0.25 and found["interval"] == as_list(change(1, 0, 4))
    before, after = (Score((flag,), (Item("q", labels={"levels": "1"}),)).summary() for flag in (False, True))
    closing_table(before, after, gain(before, after))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("held-out accuracy")]
    assert line.endswith(" +100.0")


def test_no_change_at_all_has_an_interval() -> None:
    """0 better and 0 worse of 100: the change may be 3.7 points either way."""
    assert as_list(change(0, 0, 100)) == [pytest.approx(-0.037, abs=5e-4), pytest.approx(0.037, abs=5e-4)]


def test_halves_make_a_change_no_surer() -> None:
    """Every question half won is as many halves of a win, not a certain half."""
    low, high = change(32, 0, 64)  # 64 halves
    assert float(low) < 0.4 and float(high) > 0.6


def test_accuracies_by_label_have_their_own_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    items = tuple(Item(f"q{i}", labels={"levels": str(1 + i % 2)}) for i in range(16))
    score = Score(tuple(i % 2 == 0 for i in range(16)), items).summary()
    assert score["levels"] == {"1": 1.0, "2": 0.0} and score["interval"] == as_list(share(8, 16))
    assert score["intervals"] == {"levels": {"1": as_list(share(8, 8)), "2": as_list(share(0, 8))}}
    closing_table(score, score, gain(score, score))
    assert "100.0 [67.6, 100.0]" in capsys.readouterr().out


# --- means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, *SIZES])
def test_a_mean_of_two_values_is_covered(count: int) -> None:
    ends = [bounded([1.0] * wins + [-1.0] * (count - wins), -1.0, 1.0) for wins in range(count + 1)]
    low, high = (np.array(end) / 2 + 0.5 for end in zip(*ends, strict=True))
    assert least_coverage(low, high, count) >= PROMISED


BETWEEN: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], Floats], float]] = {
    "all alike but for one in a hundred": (lambda rng, size: 1.0 - (rng.random(size) < 0.01), 0.99),
    "draws, and a few lost": (lambda rng, size: rng.choice([0.0, 0.5, 1.0], size, p=[0.02, 0.96, 0.02]), 0.5),
    "even": (lambda rng, size: rng.random(size), 0.5),
    "skewed": (lambda rng, size: rng.beta(0.5, 20.0, size), 0.5 / 20.5),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_mean_between_two_bounds_is_covered(name: str) -> None:
    draw, mean = BETWEEN[name]
    for count in (8, 64, 256):
        found = [bounded(row, 0.0, 1.0) for row in draw(np.random.default_rng(0), (1500, count))]
        assert np.mean([low <= mean <= high for low, high in found]) >= PROMISED, count


def test_a_mean_of_which_nothing_is_known_has_no_interval() -> None:
    assert as_list(bounded([5.0] * 9, 5.0, 5.0)) is None and as_list(bounded([0.5], 0.0, 1.0)) is None
    low, high = bounded([1.0] * 8, -1.0, 1.0)
    assert low < 0.4 and high == 1.0
    assert as_list(student([0.1 + 0.2, 0.3, 0.3])) is None and as_list(student([7.0])) is None


@pytest.mark.parametrize("count", [2, 3, 20, 288])
def test_student_is_scipys(count: int) -> None:
    values = [Random(i).gauss(1, 2) for i in range(count)]
    right = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    assert student(values) == pytest.approx(right)
    for bad in (math.nan, math.inf):
        assert as_list(student([*values, bad])) is None
