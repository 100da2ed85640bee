"""Symmetric equilibria of symmetric two-player games of any sum: who plays what in a population that plays itself."""

import numpy as np
from numpy.typing import ArrayLike

from selfplay.core import SelfplayError
from selfplay.theory.exact import symmetric, whole
from selfplay.theory.zero_sum import Array, NashAverage, copies, distribution, matrix, nash_average, nash_averaging

MOST = 60  # different strategies of a game that is not of constant sum
ROUNDING = 1e-12  # of the largest payoff: sums of payoffs that are nearer to one another are one constant


def equilibrium(payoffs: ArrayLike) -> NashAverage:
    """A symmetric Nash equilibrium of the game in which i earns payoffs[i, j] against j, and j payoffs[j, i].

    Every such game has one (Nash 1951). Of a game of constant sum it is that of maximum entropy (Nash averaging). Of
    another one, which may have several of different values, it is the one to which the tracing procedure of Harsanyi
    and Selten leads from the uniform mixture: complementary pivoting in whole numbers, of equals the earlier strategy
    first, so that it is exact, and the same at every call and every scale. Copies of a strategy share alike.

    Args:
        payoffs: [n, n].

    Raises:
        SelfplayError: the payoffs are no square matrix of finite numbers, or there are more than `MOST` different
            strategies in a game that is not of constant sum.
    """
    game = matrix(payoffs, square=True)
    if constant_sum(game):
        return nash_averaging(game)
    numbers, unit = whole(game)
    first, owner = copies(numbers)
    if len(first) > MOST:
        raise SelfplayError(
            f"the pay-offs of {len(first)} strategies are not of constant sum, and a symmetric equilibrium of so many "
            f"is not computed (at most {MOST}); take meta_solver=alpha_rank, replicator or uniform"
        )
    counts = np.bincount(owner)
    shares = symmetric(numbers[np.ix_(first, first)], counts.tolist())
    weights = distribution(np.array([float(share) for share in shares]))
    method = "a symmetric equilibrium, by the tracing procedure from the uniform mixture (Lemke, in whole numbers)"
    return nash_average(numbers, unit, (weights / counts)[owner], method)


def constant_sum(game: Array) -> bool:
    """Whether game[i, j] + game[j, i] is the same for all i and j, but for rounding. game [n, n]."""
    halves = game / 2 + game.T / 2
    return bool(halves.max() / 2 - halves.min() / 2 <= ROUNDING / 2 * np.abs(game).max())
