"""Meta-solvers of PSRO (Lanctot et al. 2017, 1711.00832): which mixture of the policies so far to train against.

Each takes payoffs [n, n], where payoffs[i, j] is the mean return of i when it plays j, averaged over the seats, and
returns a distribution [n] over the policies. None depends on the unit of the payoffs, or on a constant added to all.
Payoffs that are no square matrix of finite numbers are a SelfplayError.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from selfplay.theory import alpha_rank as ranking
from selfplay.theory import dynamics, symmetric, zero_sum
from selfplay.theory.exact import whole
from selfplay.theory.zero_sum import Array

MetaSolver = Callable[[ArrayLike], Array]


def nash(payoffs: ArrayLike) -> Array:
    """[n] a symmetric Nash strategy of the game itself, whatever its sum: `selfplay.theory.symmetric.equilibrium`."""
    game = zero_sum.matrix(payoffs, square=True)
    return _nash(game.tobytes(), len(game)).copy()


def uniform(payoffs: ArrayLike) -> Array:
    """[n] all policies alike: fictitious self-play's mixture (Heinrich et al. 2015)."""
    n = len(zero_sum.matrix(payoffs, square=True))
    return np.full(n, 1 / n)


def replicator(payoffs: ArrayLike, duration: float = 1000.0) -> Array:
    """[n] the time average of replicator dynamics from the uniform mixture.

    duration: in units of 1 over half the range of the payoffs, so that the work is the same whatever they are paid in.
    """
    game = unit(payoffs)
    return _replicated(game.tobytes(), len(game), duration).copy()


def alpha_rank(payoffs: ArrayLike, alpha: float = 100.0, population_size: int = 50) -> Array:
    """[n] Alpha-Rank's distribution (Muller et al. 2020, 1909.12823); alpha per half the range of the payoffs."""
    return ranking.alpha_rank(unit(payoffs), alpha, population_size).distribution


def unit(payoffs: ArrayLike) -> Array:
    """[n, n] the payoffs within [-1, 1], less the middle of their range, to 12 decimals: the same at any scale."""
    return np.round(zero_sum.scaled(whole(zero_sum.matrix(payoffs, square=True))[0]), 12) + 0.0


# A league asks for its mixture several times a step, and its payoffs change once in many.


@lru_cache(maxsize=8)
def _nash(game: bytes, n: int) -> Array:
    return symmetric.equilibrium(np.frombuffer(game).reshape(n, n)).weights


@lru_cache(maxsize=8)
def _replicated(game: bytes, n: int, duration: float) -> Array:
    return dynamics.replicator_average(np.frombuffer(game).reshape(n, n), duration)
