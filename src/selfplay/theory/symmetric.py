"""Symmetric Nash equilibria of symmetric two-player games, zero-sum or general-sum."""

import numpy as np
from numpy.typing import ArrayLike

from selfplay.core import SelfplayError
from selfplay.theory.exact import as_integers, symmetric
from selfplay.theory.zero_sum import Array, NashAverage, copies, distribution, matrix, nash_average, nash_averaging

MOST = 60  # most distinct strategies of a general-sum game
ROUNDING = 1e-12  # tolerance of the constant-sum test, relative to the largest payoff


def equilibrium(payoffs: ArrayLike) -> NashAverage:
    """A symmetric Nash equilibrium of the game in which i earns payoffs[i, j] against j, and j earns payoffs[j, i].

    Every such game has one (Nash 1951). In a constant-sum game it is the maximum-entropy one (Nash averaging). In a
    general-sum game, where equilibria can differ in value, it is the one that the tracing procedure of Harsanyi and
    Selten selects from the uniform prior. It is computed by complementary pivoting in integer arithmetic, with ties
    going to the earlier strategy, so it is exact, deterministic and scale-invariant. Duplicate strategies share their
    weight equally.

    Args:
        payoffs: [n, n] the return of i against j.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers, or a general-sum game has more than `MOST`
            distinct strategies.
    """
    game = matrix(payoffs, square=True)
    if constant_sum(game):
        return nash_averaging(game)
    numbers, unit = as_integers(game)
    first, owner = copies(numbers)
    if len(first) > MOST:
        raise SelfplayError(
            f"the meta-game is general-sum with {len(first)} distinct strategies, but symmetric equilibria are "
            f"computed for at most {MOST}; use meta_solver=alpha_rank, replicator or uniform"
        )
    counts = np.bincount(owner)
    shares = symmetric(numbers[np.ix_(first, first)], counts.tolist())
    weights = distribution(np.array([float(share) for share in shares]))
    method = "a symmetric equilibrium, by the tracing procedure from the uniform prior (Lemke, integer arithmetic)"
    return nash_average(numbers, unit, (weights / counts)[owner], method)


def constant_sum(game: Array) -> bool:
    """Whether game[i, j] + game[j, i] is constant over all i and j, up to rounding. game: [n, n]."""
    halves = game / 2 + game.T / 2
    return bool(halves.max() / 2 - halves.min() / 2 <= ROUNDING / 2 * np.abs(game).max())
