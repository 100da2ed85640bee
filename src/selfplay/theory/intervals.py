"""95 % intervals of shares, of paired changes and of means of bounded figures, whose coverage is checked exactly.

The tests sum the binomial and trinomial probabilities: the coverage is at least 93 % for every share of up to 576
trials, and for changes at every point of a grid. (`scipy.stats` takes a third of a second to import; none of it is
needed here.)
"""

from collections.abc import Iterable
from math import nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

Floats = NDArray[np.float64]
LEVEL = 0.95
Z = float(ndtri((1 + LEVEL) / 2))
FEWER = 6  # trials; below, Wilson's end for no success covers too seldom
TAIL = 0.03  # of each side of the exact interval that Wilson's is widened to


def share(successes: ArrayLike, count: ArrayLike) -> tuple[Floats, Floats]:
    """Low and high end of a share of `count` independent trials, elementwise.

    Wilson's score interval (1927) covers a share near 0 or 1 too seldom: .84 instead of .95 at worst, for few and for
    many trials. It is therefore widened to Clopper and Pearson's exact interval (1934) at 94 % wherever that is wider.
    Of no success, or of nothing but successes, Wilson's end is kept: 8 of 8 are [.676, 1].

    Args:
        successes: from 0 to `count`; half a win is half a success.
        count: at least 1.
    """
    x, n = np.broadcast_arrays(np.asarray(successes, dtype=float), np.asarray(count, dtype=float))
    middle = (x + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * np.sqrt(x * (n - x) / n + Z * Z / 4)
    exact_low = np.where(x > 0, betaincinv(np.maximum(x, 1e-12), n - x + 1, TAIL), 0.0)
    exact_high = np.where(x < n, betaincinv(x + 1, np.maximum(n - x, 1e-12), 1 - TAIL), 1.0)
    low, high = middle - half, middle + half
    low = np.where((x == n) & (n >= FEWER), low, np.minimum(low, exact_low))
    high = np.where((x == 0) & (n >= FEWER), high, np.maximum(high, exact_high))
    return np.where(x > 0, low.clip(0.0), 0.0), np.where(x < n, high.clip(None, 1.0), 1.0)


def change(better: ArrayLike, worse: ArrayLike, count: ArrayLike) -> tuple[Floats, Floats]:
    """Low and high end of the change of a share, (better - worse) / count, on the same questions; elementwise.

    The change is the share of questions that are newly right less the share that are newly wrong. The two shares'
    intervals are joined by squares (Newcombe 1998, method 10; MOVER, Zou and Donner 2008) with the correlation of two
    shares of one multinomial. Two questions are the fewest: `nan` for one.

    Args:
        better, worse: how many changed for the better and for the worse, at most `count` together. A question that
            changed by half counts as half of one, which makes the interval wider and never narrower.
        count: of all questions.
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (better, worse, count)))
    p, q = b / n, c / n
    (p_low, p_high), (q_low, q_high) = share(b, n), share(c, n)
    both = np.sqrt(np.maximum((1 - p) * (1 - q), 0.0))
    all_changed = p + q > 1 - 1e-12
    correlation = np.where(all_changed, -1.0, -np.sqrt(p * q) / np.where(all_changed, 1.0, both))

    def joined(one: Floats, other: Floats) -> Floats:
        return np.sqrt(np.maximum(one**2 + other**2 - 2 * correlation * one * other, 0.0))

    low, high = p - q - joined(p - p_low, q_high - q), p - q + joined(p_high - p, q - q_low)
    unknown = n < 2
    return np.where(unknown, nan, low.clip(-1.0)), np.where(unknown, nan, high.clip(None, 1.0))


def bounded(values: ArrayLike, low: float, high: float) -> tuple[float, float]:
    """The interval of the mean of independent figures that lie between `low` and `high`.

    Agresti and Coull (1998) add z² / 2 observations of either bound to those that were made, for figures that are one
    of the two bounds; here for any between, with Student's t of as many observations. So what never differed in a few
    observations has no interval of width 0, and the ends stay within the bounds. Of figures that take two values it
    covers the mean in at least 93 % of samples of any size, where Student's t alone does in 4 to 95 %. NaN for fewer
    than two values, and where both bounds are one.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2 or not low < high:
        return nan, nan
    count, added = len(x) + Z * Z, Z * Z / 2
    mean = (x.sum() + added * (low + high)) / count
    squares = np.square(x - mean).sum() + added * ((low - mean) ** 2 + (high - mean) ** 2)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * sqrt(squares) / count
    return float(max(low, mean - half)), float(min(high, mean + half))


def student(values: ArrayLike) -> tuple[float, float]:
    """Student's t interval of the mean of independent values.

    NaN where there is none: for fewer than two values, for some that are not finite, and where all are equal up to
    rounding, for then nothing is known of their spread.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2 or not np.isfinite(x).all() or np.ptp(x) <= 1e-12 * np.abs(x).max():
        return nan, nan
    half = float(stdtrit(len(x) - 1, (1 + LEVEL) / 2)) * float(x.std(ddof=1)) / sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half


def told(ends: Iterable[ArrayLike]) -> list[float] | None:
    """An interval as metrics hold it: a list, or None where there is none."""
    low, high = (float(np.asarray(end)) for end in ends)
    return [low, high] if np.isfinite([low, high]).all() else None
