"""Meta-solvers of PSRO (Lanctot et al. 2017, 1711.00832): which mixture of the policies so far to train against.

Each takes payoffs [n, n], where payoffs[i, j] is the mean return of i when it plays j, averaged over the seats, and
returns a distribution [n] over the policies. Payoffs that are no square matrix of finite numbers are a SelfplayError.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from selfplay.theory import alpha_rank as ranking
from selfplay.theory import dynamics, zero_sum
from selfplay.theory.zero_sum import Array

MetaSolver = Callable[[ArrayLike], Array]


def nash(payoffs: ArrayLike) -> Array:
    """[n] a symmetric Nash strategy of the game antisymmetrised to (M - M.T) / 2, by linear programming."""
    return zero_sum.solve(zero_sum.antisymmetrised(payoffs)).row


def uniform(payoffs: ArrayLike) -> Array:
    """[n] all policies alike: fictitious self-play's mixture (Heinrich et al. 2015)."""
    n = len(zero_sum.matrix(payoffs, square=True))
    return np.full(n, 1 / n)


def replicator(payoffs: ArrayLike, duration: float = 1000.0) -> Array:
    """[n] the time average of replicator dynamics from the uniform mixture; duration in units of 1 / payoff."""
    return dynamics.replicator_average(payoffs, duration)


def alpha_rank(payoffs: ArrayLike, alpha: float = 100.0, population_size: int = 50) -> Array:
    """[n] Alpha-Rank's distribution (Muller et al. 2020, 1909.12823); alpha per unit of payoff."""
    return ranking.alpha_rank(payoffs, alpha, population_size).distribution
