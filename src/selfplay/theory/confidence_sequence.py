"""A lower confidence bound of a mean that holds at all times at once, by betting.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), section 4.4: if
observations in [0, 1] have the conditional mean m, the capital of a gambler who bets that they exceed m,

    K_t(m) = prod_i (1 + lambda_i(m) (x_i - m)),    0 <= lambda_i(m) <= c / m chosen before x_i is seen,

is a non-negative martingale, which reaches 1 / alpha with probability at most alpha (Ville 1939). The means for which
it has not are a confidence set for all t simultaneously, so one may look at any time and stop whenever one likes.
"""

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from selfplay.core import SelfplayError, at_least

Floats = NDArray[np.float64]
MOST = 0.75  # c: the largest share of the capital that a single observation can lose
ACCURACY = 1e-9  # of the bound, relative to the range
ROUNDING = 1e-6  # an observation outside the range by less than this share of it counts as its end


class LowerBound:
    """The running lower confidence bound of the mean of bounded observations.

    P(there is a t at which the bound exceeds the mean) <= 1 - confidence, if every observation has the same mean given
    the earlier ones; they need not be independent.

    Args:
        low: the smallest possible observation.
        high: the largest possible observation.
        confidence: 1 - alpha, between 0 and 1.
        aim: the number of observations for which the stakes are chosen, so that the bound is sharpest there; it holds
            at any other time, too.

    Attributes:
        bound: the largest bound so far; at first `low`.
        count: the number of observations.
        mean: their mean.

    Raises:
        SelfplayError: `low` is not below `high`, or the confidence is not between 0 and 1.
    """

    def __init__(self, low: float, high: float, confidence: float, aim: int) -> None:
        if not low < high:
            raise SelfplayError(f"observations lie between {low:g} and {high:g}; give two ends, the lower one first")
        if not 0 < confidence < 1:
            raise SelfplayError(f"the confidence is {confidence:g}; give a number between 0 and 1, such as 0.95")
        at_least(1, aim=aim)
        self.low, self.high, self.confidence, self.aim = low, high, confidence, aim
        self._seen: Floats = np.empty(0)
        self._unit = 0.0  # the bound on the scale [0, 1]

    @property
    def bound(self) -> float:
        return self.low + (self.high - self.low) * self._unit

    @property
    def count(self) -> int:
        return len(self._seen)

    @property
    def mean(self) -> float:
        return float(self.low + (self.high - self.low) * self._seen.mean())

    def add(self, values: Sequence[float]) -> float:
        """Take further observations, in their order; return the bound.

        Raises:
            SelfplayError: an observation lies outside of the range.
        """
        scaled = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        for value, unit in zip(values, scaled, strict=True):
            if not -ROUNDING <= unit <= 1 + ROUNDING:
                raise SelfplayError(
                    f"an observation is {value:g}, outside of the range from {self.low:g} to {self.high:g}, for which "
                    "the bound would hold; give the true range"
                )
        self._seen = np.append(self._seen, scaled.clip(0.0, 1.0))
        self._unit = _bound(self._seen, 1 - self.confidence, self.aim)
        return self.bound


def _bound(seen: Floats, alpha: float, aim: int) -> float:
    """The smallest mean against which the capital has never reached 1 / alpha, by bisection.

    The capital decreases in the mean at every time, and so does its maximum over time.
    """
    stakes, rich = _stakes(seen, alpha, aim), log(1 / alpha)

    def refuted(mean: float) -> bool:
        bets = np.minimum(stakes, MOST / mean)
        return bool(np.log1p(bets * (seen - mean)).cumsum().max(initial=0.0) >= rich)

    below, above = 0.0, 1.0
    while above - below > ACCURACY:
        middle = (below + above) / 2
        below, above = (middle, above) if refuted(middle) else (below, middle)
    return below


def _stakes(seen: Floats, alpha: float, aim: int) -> Floats:
    """[T] the stakes before truncation, sqrt(2 log(1 / alpha) / (variance aim)), each from earlier observations alone.

    The variance before observation t is (1/4 + sum of (x_i - mean_i)^2) / t over those before, with the running mean
    (1/2 + sum of x) / (i + 1); see their section 4.1 for a fixed number of observations.
    """
    times = np.arange(1, len(seen) + 1)
    means = (0.5 + seen.cumsum()) / (times + 1)
    spread = (0.25 + np.square(seen - means).cumsum()) / (times + 1)
    return np.sqrt(2 * log(1 / alpha) / (np.append(0.25, spread[:-1]) * aim))  # type: ignore[no-any-return]
