"""95 % intervals of an evaluation's figures. `scipy.stats` has them too, and takes a third of a second to import."""

from collections.abc import Sequence
from math import isfinite, nan, sqrt
from statistics import stdev

from scipy.special import ndtri, stdtrit


def wilson(successes: int, count: int) -> list[float]:
    """Low and high end of a share of `count` independent trials (Wilson 1927)."""
    z, share = float(ndtri(0.975)), successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def student(values: Sequence[float]) -> float:
    """Half of the width of the interval of the mean of independent values, by Student's t; NaN where there is none."""
    if len(values) < 2 or not all(map(isfinite, values)):
        return nan
    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))
