"""Two-player zero-sum matrix games: Nash equilibria, with an exact fallback for small games, and Nash averaging."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from selfplay.core import SelfplayError
from selfplay.theory.exact import Integers, as_integers, zero_sum
from selfplay.theory.face import maximum_entropy, most_entropic, nash_face

Array = NDArray[np.float64]
EXACT = 400  # most matrix entries that the exact integer fallback accepts
GAP = 1e-9  # largest accepted gap of a float solution, relative to the range of payoffs on its support
NOISE = 1e-13  # rounding error of the payoffs themselves, relative to their overall range


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """A Nash equilibrium of a zero-sum matrix game. It may not be unique, but all equilibria have the same value.

    Attributes:
        row: [n] strategy of the row player, who maximises.
        column: [m] strategy of the column player, who minimises.
        value: expected return of the row player, in the payoffs' unit.
        gap: NashConv, the two players' summed gain from best responses; 0 up to rounding.
        method: the algorithm used.
    """

    row: Array
    column: Array
    value: float
    gap: float
    method: str


@dataclass(frozen=True, eq=False)
class NashAverage:
    """A symmetric equilibrium of a meta-game, and each player's return against it.

    Attributes:
        weights: [n] the equilibrium strategy.
        skills: [n] each player's return against the equilibrium minus its value: 0 on the support, at most 0 elsewhere.
        entropy: entropy of the weights, in nats.
        gap: the largest skill, which is the gain of the best deviation; 0 up to rounding.
        method: which equilibrium it is, and the algorithm used.
    """

    weights: Array
    skills: Array
    entropy: float
    gap: float
    method: str


def solve(payoffs: ArrayLike) -> Equilibrium:
    """Solve for a Nash equilibrium by linear programming (von Neumann 1928; Dantzig 1951).

    The solver is HiGHS' dual simplex. If its gap exceeds `GAP` times the range of the payoffs on the support (near
    ties, or payoffs of very different magnitude), an integer simplex method finds an exact equilibrium, rounded once.

    Args:
        payoffs: [n, m] what the row player earns and the column player pays.

    Raises:
        SelfplayError: the payoffs are not a matrix of finite numbers, or HiGHS fails and there are more than `EXACT`
            of them.
    """
    game = matrix(payoffs)
    numbers, unit = as_integers(game)
    (n, m), unit_game = game.shape, scaled(numbers)
    result = _linear_program(
        np.append(np.zeros(n), -1.0),
        np.column_stack([-unit_game.T, np.ones(m)]),
        np.append(np.ones(n), 0.0),
        [(0.0, None)] * n + [(None, None)],
    )
    if result.status == 0:
        row, column = distribution(result.x[:n]), distribution(-result.ineqlin.marginals)
        if _within(float((unit_game @ column).max() - (row @ unit_game).min()), unit_game[row > 0][:, column > 0]):
            return _equilibrium(numbers, unit, row, column, "linear programming (HiGHS)")
    _check_size(game)
    row, column = (np.array([float(share) for share in shares]) for shares in zero_sum(numbers))
    return _equilibrium(numbers, unit, distribution(row), distribution(column), "simplex, integer arithmetic")


def nash_averaging(payoffs: ArrayLike) -> NashAverage:
    """Nash averaging (Balduzzi et al. 2018, 1806.02643): the maximum-entropy Nash strategy, and skills.

    Only (payoffs - payoffs.T) / 2 matters; for general-sum games, which this changes, see `selfplay.theory.symmetric`.
    If the symmetric equilibrium is unique (it almost always is), the average is invariant to duplicate players, unlike
    a mean over opponents or an Elo rating; otherwise duplicates change the maximum-entropy equilibrium. Duplicates
    always get equal weight.

    The result is an equilibrium with a gap of at most `GAP` times the range of the payoffs on its support, at any
    scale; payoffs that differ by less than `NOISE` of the largest may count as equal. Linear programs find the largest
    support, and a projected Newton method on the dual maximises the entropy. If floats are not accurate enough (near
    ties, or payoffs of very different magnitude), integer arithmetic first finds the set of all equilibria. If the
    entropy maximisation over it fails, the result is another interior point, and `method` says so.

    Args:
        payoffs: [n, n] the return of i against j.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers, or floats are not accurate enough and
            there are more than `EXACT` payoffs.
    """
    numbers, unit = as_integers(matrix(payoffs, square=True))
    game = numbers - numbers.T
    first, owner = copies(game)
    counts = np.bincount(owner).astype(np.float64)
    weights, method = _average(game[np.ix_(first, first)], counts)
    return nash_average(game, unit / 2, (weights / counts)[owner], method)


def nash_average(game: Integers, unit: Fraction, weights: Array, method: str) -> NashAverage:
    """The `NashAverage` of a symmetric equilibrium strategy.

    Args:
        game: [n, n] integer payoffs.
        unit: the value of 1 in `game`.
        weights: [n] the equilibrium strategy.
        method: as in `NashAverage`.
    """
    shares, _ = as_integers(weights)
    total = shares.sum()
    returns = [Fraction(x, total) for x in game @ shares]
    value = sum(r * Fraction(x, total) for r, x in zip(returns, shares, strict=True))
    skills = np.array([float(unit * (r - value)) for r in returns])
    entropy = -sum(float(w * np.log(w)) for w in weights if w > 0)
    return NashAverage(weights, skills, entropy, float(skills.max()), method)


def copies(game: Integers) -> tuple[list[int], list[int]]:
    """Group players with identical rows and columns.

    Args:
        game: [n, n] integer payoffs.

    Returns:
        The first player of each group, and for each of the n players the index of its group.
    """
    kinds: dict[tuple[tuple[Any, ...], tuple[Any, ...]], int] = {}
    owner = [kinds.setdefault((tuple(game[i]), tuple(game[:, i])), len(kinds)) for i in range(len(game))]
    return [owner.index(kind) for kind in range(len(kinds))], owner


def matrix(payoffs: ArrayLike, square: bool = False) -> Array:
    """[n, m] the payoffs as float64; raises SelfplayError unless they are a (square) matrix of finite numbers."""
    game = np.array(payoffs, dtype=np.float64)
    if game.ndim != 2 or game.size == 0 or (square and game.shape[0] != game.shape[1]):
        kind = "square matrix" if square else "matrix"
        raise SelfplayError(f"payoffs have shape {game.shape}; give a {kind} with one row per strategy")
    if not np.isfinite(game).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(game))[0])
        raise SelfplayError(f"payoffs[{i}, {j}] is {game[i, j]}; give finite numbers")
    return game


def scaled(game: Integers) -> Array:
    """[n, m] the payoffs mapped affinely to [-1, 1]."""
    least, most = game.min(), game.max()
    spread = (most - least) or 1
    return np.array([[float(Fraction(2 * x - most - least, spread)) for x in line] for line in game])


def antisymmetrised(payoffs: ArrayLike) -> Array:
    """[n, n] (M - M.T) / 2, half the difference between i's return against j and j's against i; raises as `matrix`."""
    game = matrix(payoffs, square=True)
    return game / 2 - game.T / 2


def distribution(weights: Array) -> Array:
    """[n] the weights clipped at 0 and normalised to sum to 1."""
    positive = np.clip(weights, 0.0, None)
    return np.asarray(positive / positive.sum(), dtype=np.float64)


def _equilibrium(game: Integers, unit: Fraction, row: Array, column: Array, method: str) -> Equilibrium:
    """The `Equilibrium` of these strategies; value and gap are computed exactly, then rounded."""
    rows, columns = as_integers(row)[0], as_integers(column)[0]
    above, below = game @ columns, rows @ game
    value = Fraction(rows @ above, rows.sum() * columns.sum())
    gap = Fraction(above.max(), columns.sum()) - Fraction(below.min(), rows.sum())
    return Equilibrium(row, column, float(unit * value), float(unit * gap), method)


def _within(gap: float, played: Array) -> bool:
    """Whether a gap is due to rounding. `played` holds the payoffs, in [-1, 1], between strategies on the support."""
    return gap <= max(GAP * float(np.ptp(played)), NOISE)


def _check_size(game: Array) -> None:
    if game.size > EXACT:
        raise SelfplayError(
            f"this game of {game.shape[0]} x {game.shape[1]} payoffs between {game.min():.3g} and {game.max():.3g} has "
            f"near ties below float precision, and the exact solver takes at most {EXACT} payoffs; leave some out"
        )


def _average(game: Integers, counts: Array) -> tuple[Array, str]:
    """The weights [n] of distinct players with the given multiplicities [n], and the method used."""
    largest = np.abs(game).max() or 1
    floats = np.array([[float(Fraction(x, largest)) for x in line] for line in game])
    weights = _by_linear_programs(floats, counts)
    if weights is not None and _fits(floats, weights):
        return weights, "Nash averaging: maximum entropy (HiGHS, projected Newton)"
    _check_size(floats)
    face = nash_face(game)
    inside = distribution(np.array([float(weight) for weight in face.inside]))
    if face.directions.shape[1] == 0:
        return inside, "Nash averaging: the unique equilibrium (simplex, integer arithmetic)"
    weights = most_entropic(face, floats, counts)
    if _fits(floats, weights):
        return weights, "Nash averaging: maximum entropy (simplex in integer arithmetic, projected Newton)"
    return inside, "an equilibrium of maximal support; its entropy is not at its maximum"


def _fits(game: Array, weights: Array) -> bool:
    if not np.isfinite(weights).all():
        return False
    played = weights > 0
    return _within(float((game @ weights).max()), game[played][:, played])


def _by_linear_programs(game: Array, counts: Array) -> Array | None:
    """[n] the maximum-entropy Nash strategy; None if a linear program fails."""
    support = _largest_support(game)
    if support is None:
        return None
    weights = np.zeros(len(game))
    inner, outer = game[support][:, support], game[~support][:, support]
    weights[support] = maximum_entropy(inner, outer, counts[support])
    return weights


def _linear_program(cost: Array, rows: Array, total: Array, bounds: Sequence[tuple[float | None, float | None]]) -> Any:
    """Minimise cost @ x subject to rows @ x <= 0 and total @ x = 1; returns scipy's OptimizeResult."""
    return linprog(
        cost,
        A_ub=rows,
        b_ub=np.zeros(len(rows)),
        A_eq=total[None],
        b_eq=np.ones(1),
        bounds=bounds,
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )


def _largest_support(game: Array) -> NDArray[np.bool_] | None:
    """[n] the strategies in the support of some Nash strategy (game @ p <= 0) of the antisymmetric game.

    Each linear program maximises the total weight of the strategies not yet in the support, until none can be added.
    None if HiGHS fails.
    """
    n = len(game)
    support = np.zeros(n, dtype=np.bool_)
    while not support.all():
        result = _linear_program(np.where(support, 0.0, -1.0), game, np.ones(n), [(0.0, None)] * n)
        if result.status != 0:
            return None
        seen = support | (result.x > 1e-8)
        if (seen == support).all():
            break
        support = seen
    return support
