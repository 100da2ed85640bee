"""Two-player zero-sum matrix games: equilibria by linear programming, and Nash averaging."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.special import logsumexp, softmax

from selfplay.core import SelfplayError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """A Nash equilibrium of a zero-sum matrix game; there may be others, of the same value.

    Attributes:
        row: [n] probabilities of the row player, who maximises.
        column: [m] probabilities of the column player, who minimises.
        value: what the row player earns, in the payoffs' unit.
        gap: NashConv, what both players together gain by their best deviations: 0 but for rounding.
        method: how it was found.
    """

    row: Array
    column: Array
    value: float
    gap: float
    method: str


@dataclass(frozen=True, eq=False)
class NashAverage:
    """The Nash average of a meta-game.

    Attributes:
        weights: [n] the maximum-entropy Nash strategy of the antisymmetrised game.
        skills: [n] each player's return against it: 0 for those it plays, at most 0 for the others.
        entropy: of the weights, in nats.
        gap: the largest skill, what a deviation gains: 0 but for rounding.
        method: how it was found.
    """

    weights: Array
    skills: Array
    entropy: float
    gap: float
    method: str


def solve(payoffs: ArrayLike) -> Equilibrium:
    """A Nash equilibrium by linear programming (von Neumann 1928; Dantzig 1951), solved by HiGHS' dual simplex.

    Args:
        payoffs: [n, m] what the row player earns and the column player pays.

    Raises:
        SelfplayError: the payoffs are no matrix of finite numbers.
    """
    game = matrix(payoffs)
    (n, m), middle = game.shape, (game.max() + game.min()) / 2
    scaled = (game - middle) / (np.abs(game - middle).max() or 1.0)
    result = _linear_program(
        np.append(np.zeros(n), -1.0),
        np.column_stack([-scaled.T, np.ones(m)]),
        np.append(np.ones(n), 0.0),
        [(0.0, None)] * n + [(None, None)],
    )
    row, column = distribution(result.x[:n]), distribution(-result.ineqlin.marginals)
    best, worst = (game @ column).max(), (row @ game).min()
    return Equilibrium(row, column, float(row @ game @ column), float(best - worst), "linear programme (HiGHS)")


def nash_averaging(payoffs: ArrayLike) -> NashAverage:
    """Nash averaging (Balduzzi et al. 2018, 1806.02643): the Nash strategy of maximum entropy, and skills.

    Unlike a mean over opponents or an Elo rating, it is not moved by copies of a player, provided that the game has
    one symmetric equilibrium (nearly all games do); of several, copies move the one of maximum entropy. The largest
    support is found by a linear programme, the entropy is maximised by a projected Newton method on the dual
    (Bertsekas 1982).

    Args:
        payoffs: [n, n] the return of i against j; only (payoffs - payoffs.T) / 2 is looked at.

    Raises:
        SelfplayError: the payoffs are no square matrix of finite numbers.
    """
    game = antisymmetrised(payoffs)
    scaled = game / (np.abs(game).max() or 1.0)
    support = _largest_support(scaled)
    weights = np.zeros(len(game))
    weights[support] = _maximum_entropy(scaled[support][:, support], scaled[~support][:, support])
    skills = game @ weights
    entropy = -sum(float(w * np.log(w)) for w in weights if w > 0)
    return NashAverage(weights, skills, entropy, float(skills.max()), "maximum entropy (projected Newton, dual)")


def matrix(payoffs: ArrayLike, square: bool = False) -> Array:
    """[n, m] the payoffs as float64. Raises SelfplayError unless it is a matrix (a square one) of finite numbers."""
    game = np.array(payoffs, dtype=np.float64)
    if game.ndim != 2 or game.size == 0 or (square and game.shape[0] != game.shape[1]):
        kind = "square matrix" if square else "matrix"
        raise SelfplayError(f"payoffs have the shape {game.shape}; give a {kind} with a row for each strategy")
    if not np.isfinite(game).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(game))[0])
        raise SelfplayError(f"payoffs[{i}, {j}] is {game[i, j]}; give finite numbers")
    return game


def antisymmetrised(payoffs: ArrayLike) -> Array:
    """[n, n] (M - M.T) / 2: how much better i fares against j than j against i, halved; errors as `matrix`."""
    game = matrix(payoffs, square=True)
    return game / 2 - game.T / 2


def distribution(weights: Array) -> Array:
    """[n] the weights without negative rounding, summing to 1."""
    positive = np.clip(weights, 0.0, None)
    return np.asarray(positive / positive.sum(), dtype=np.float64)


def _linear_program(cost: Array, rows: Array, total: Array, bounds: Sequence[tuple[float | None, float | None]]) -> Any:
    """The minimum of cost @ x under rows @ x <= 0 and total @ x = 1, as scipy's OptimizeResult."""
    result = linprog(
        cost,
        A_ub=rows,
        b_ub=np.zeros(len(rows)),
        A_eq=total[None],
        b_eq=np.ones(1),
        bounds=bounds,
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.status != 0:
        raise SelfplayError(f"the linear programme of this game ended with {result.message!r}; rescale the payoffs")
    return result


def _largest_support(game: Array) -> NDArray[np.bool_]:
    """[n] who has a positive weight in some Nash strategy (game @ p <= 0) of the antisymmetric game.

    Each linear programme gives the most weight to those not yet seen with one, until they can have none.
    """
    n = len(game)
    support = np.zeros(n, dtype=np.bool_)
    while not support.all():
        weights = _linear_program(np.where(support, 0.0, -1.0), game, np.ones(n), [(0.0, None)] * n).x
        seen = support | (weights > 1e-8)
        if (seen == support).all():
            break
        support = seen
    return support


def _maximum_entropy(equal: Array, below: Array) -> Array:
    """[s] the distribution p of maximum entropy with equal @ p = 0 and below @ p <= 0, which some p > 0 fulfils.

    It is softmax(-rows.T @ duals), where duals, at least 0 for `below`, minimise logsumexp(-rows.T @ duals).
    """
    rows = np.vstack([equal, below])
    signed = np.arange(len(rows)) >= len(equal)
    duals = np.zeros(len(rows))
    value = float(logsumexp(-rows.T @ duals))
    for _ in range(500):
        weights = np.asarray(softmax(-rows.T @ duals), dtype=np.float64)
        slope = -rows @ weights
        free = ~signed | (duals > 0) | (slope < 0)
        size = np.abs(slope[free]).max(initial=0.0)
        if size < 1e-14:
            break
        centred = rows[free] - (rows[free] @ weights)[:, None]
        curvature = (centred * weights) @ centred.T + np.clip(size, 1e-10, 1e-3) * 1e-3 * np.eye(int(free.sum()))
        step = np.zeros(len(rows))
        step[free] = np.linalg.solve(curvature, slope[free])
        for halving in range(60):
            trial = duals - step * 0.5**halving
            trial[signed] = trial[signed].clip(0.0)
            reached = float(logsumexp(-rows.T @ trial))
            if reached <= value + 1e-4 * float(slope @ (trial - duals)) + 4e-16:
                break
        duals, value = trial, reached
    return np.asarray(softmax(-rows.T @ duals), dtype=np.float64)
