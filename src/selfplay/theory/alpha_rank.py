"""Alpha-Rank: the stationary distribution of evolution with rare mutants (Omidshafiei et al. 2019, 1903.01373)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from selfplay.core import SelfplayError, at_least
from selfplay.theory.zero_sum import Array, matrix


@dataclass(frozen=True, eq=False)
class AlphaRank:
    """The stationary distribution of Alpha-Rank's Markov chain.

    Attributes:
        distribution: [n] over strategies for one population; [n_1, ..., n_k] over pure profiles for k populations.
        alpha: ranking intensity, per unit of payoff.
        population_size: individuals in each population.
        method: how it was computed.
    """

    distribution: Array
    alpha: float
    population_size: int
    method: str

    def marginal(self, player: int) -> Array:
        """[n_player] the marginal distribution over one player's strategies."""
        others = tuple(axis for axis in range(self.distribution.ndim) if axis != player)
        return np.asarray(self.distribution.sum(axis=others), dtype=np.float64)


def alpha_rank(payoffs: ArrayLike, alpha: float = 100.0, population_size: int = 50) -> AlphaRank:
    """Alpha-Rank of a symmetric two-player game with one population (1903.01373, local selection).

    The chain is solved in log space by subtraction-free elimination (Grassmann, Taksar and Heyman 1985), so any finite
    alpha is valid. As alpha grows, the distribution converges to one on the sink strongly connected components of the
    response graph; it has converged once alpha times the smallest payoff difference is a few tens.

    Args:
        payoffs: [n, n] the return of i against j; only payoffs - payoffs.T matters.
        alpha: ranking intensity, at least 0; at 0 the distribution is uniform.
        population_size: individuals in the population, at least 2.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers, or an argument is out of range.
    """
    game = matrix(payoffs, square=True)
    _check(alpha, population_size)
    rates = _log_fixation(_intensity(alpha, game.T / 2 - game / 2), population_size)
    weights = _stationary(rates)
    return AlphaRank(weights, float(alpha), population_size, "one population, log-space elimination")


def alpha_rank_profiles(payoffs: Sequence[ArrayLike], alpha: float = 100.0, population_size: int = 50) -> AlphaRank:
    """Alpha-Rank of a k-player game with one population per player; one population mutates at a time. See `alpha_rank`.

    Args:
        payoffs: for each of the k players, the returns [n_1, ..., n_k] at every pure profile.
        alpha: ranking intensity, at least 0; at 0 the distribution is uniform.
        population_size: individuals in each population, at least 2.

    Raises:
        SelfplayError: the payoffs are not k finite tensors of one shape with k axes, or an argument is out of range.
    """
    tables = [np.array(table, dtype=np.float64) for table in payoffs]
    shapes = [table.shape for table in tables]
    if not tables or any(s != shapes[0] or len(s) != len(tables) or 0 in s for s in shapes):
        raise SelfplayError(
            f"the payoff tensors have shapes {shapes}; give one per player, all of one shape with one axis per player"
        )
    if not all(np.isfinite(table).all() for table in tables):
        raise SelfplayError("a payoff tensor holds a non-finite number; give finite numbers")
    _check(alpha, population_size)
    weights = _stationary(_profile_rates(tables, alpha, population_size)).reshape(shapes[0])
    return AlphaRank(weights, float(alpha), population_size, f"{len(tables)} populations, log-space elimination")


def _check(alpha: float, population_size: int) -> None:
    at_least(2, population_size=population_size)
    if not 0 <= alpha < math.inf:
        raise SelfplayError(f"alpha is {alpha}; use a finite number of at least 0 (a large one for the limit)")


def _intensity(alpha: float, half_gains: Array) -> Array:
    """alpha times a mutant's payoff gain, of which half is passed; raises SelfplayError on overflow."""
    with np.errstate(over="ignore"):
        found = 2 * (alpha * half_gains)
    if not np.isfinite(found).all():
        raise SelfplayError(
            f"alpha {alpha:g} times a payoff difference of {2 * np.abs(half_gains).max():.3g} overflows a float; lower "
            "alpha, which is per unit of payoff"
        )
    return np.asarray(found, dtype=np.float64)


def _profile_rates(tables: Sequence[Array], alpha: float, population_size: int) -> Array:
    """[profiles, profiles] log transition rates between pure profiles that differ in one player's strategy."""
    shape = tables[0].shape
    ids = np.arange(math.prod(shape)).reshape(shape)
    rates = np.full((ids.size, ids.size), -np.inf)
    for player, table in enumerate(tables):
        lines = np.moveaxis(ids, player, -1).reshape(-1, shape[player])
        returns = np.moveaxis(table, player, -1).reshape(-1, shape[player])
        gains = returns[:, None, :] / 2 - returns[:, :, None] / 2
        rates[lines[:, :, None], lines[:, None, :]] = _log_fixation(_intensity(alpha, gains), population_size)
    return rates


def _log_fixation(advantage: Array, population_size: int) -> Array:
    """Log fixation probability of one mutant: log((1 - exp(-u)) / (1 - exp(-m u))), and -log(m) at u = 0."""
    u, m = np.abs(advantage), population_size
    safe = np.where(u > 0, u, 1.0)
    ratio = np.where(u > 0, np.log(-np.expm1(-safe)) - np.log(-np.expm1(-m * safe)), -math.log(m))
    return np.asarray(ratio - (m - 1) * np.clip(-advantage, 0.0, None), dtype=np.float64)


def _stationary(rates: Array) -> Array:
    """[n] the stationary distribution of the chain with these off-diagonal log rates [n, n]; exact up to rounding."""
    logs, n = rates.copy(), len(rates)
    for last in range(n - 1, 0, -1):
        logs[:last, last] -= np.logaddexp.reduce(logs[last, :last])
        through = logs[:last, last, None] + logs[None, last, :last]
        logs[:last, :last] = np.logaddexp(logs[:last, :last], through)
    weights = np.zeros(n)
    for state in range(1, n):
        weights[state] = np.logaddexp.reduce(weights[:state] + logs[:state, state])
    weights = np.exp(weights - weights.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)
