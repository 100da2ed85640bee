"""Meta-solvers of PSRO (Lanctot et al. 2017, 1711.00832): the mixture of past policies to train against.

Each solver takes payoffs [n, n], where payoffs[i, j] is the mean return of i against j averaged over the seats, and
returns a distribution [n] over the policies. The result is invariant to rescaling the payoffs and to adding a constant.
All solvers raise SelfplayError unless the payoffs are a square matrix of finite numbers.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from selfplay.theory import alpha_rank as ranking
from selfplay.theory import dynamics, symmetric, zero_sum
from selfplay.theory.exact import as_integers
from selfplay.theory.zero_sum import Array

MetaSolver = Callable[[ArrayLike], Array]


def nash(payoffs: ArrayLike) -> Array:
    """[n] a symmetric Nash strategy of the zero-sum or general-sum game: `selfplay.theory.symmetric.equilibrium`."""
    game = zero_sum.matrix(payoffs, square=True)
    return _nash(game.tobytes(), len(game)).copy()


def uniform(payoffs: ArrayLike) -> Array:
    """[n] the uniform distribution, as in fictitious self-play (Heinrich et al. 2015)."""
    n = len(zero_sum.matrix(payoffs, square=True))
    return np.full(n, 1 / n)


def replicator(payoffs: ArrayLike, duration: float = 1000.0) -> Array:
    """[n] the time average of replicator dynamics started from the uniform mixture.

    Args:
        payoffs: [n, n].
        duration: integration time after the payoffs are scaled to [-1, 1], so the cost does not depend on their unit.
    """
    game = unit(payoffs)
    return _replicated(game.tobytes(), len(game), duration).copy()


def alpha_rank(payoffs: ArrayLike, alpha: float = 100.0, population_size: int = 50) -> Array:
    """[n] Alpha-Rank's distribution (Muller et al. 2020, 1909.12823).

    Args:
        payoffs: [n, n].
        alpha: ranking intensity for payoffs scaled to [-1, 1].
        population_size: individuals in the population, at least 2.
    """
    return ranking.alpha_rank(unit(payoffs), alpha, population_size).distribution


def unit(payoffs: ArrayLike) -> Array:
    """[n, n] the payoffs mapped affinely to [-1, 1] and rounded to 12 decimals, so that scale and offset cancel."""
    return np.round(zero_sum.scaled(as_integers(zero_sum.matrix(payoffs, square=True))[0]), 12) + 0.0


# Cached: a league queries its mixture several times per step, but its payoffs change rarely.


@lru_cache(maxsize=8)
def _nash(game: bytes, n: int) -> Array:
    return symmetric.equilibrium(np.frombuffer(game).reshape(n, n)).weights


@lru_cache(maxsize=8)
def _replicated(game: bytes, n: int, duration: float) -> Array:
    return dynamics.replicator_average(np.frombuffer(game).reshape(n, n), duration)
