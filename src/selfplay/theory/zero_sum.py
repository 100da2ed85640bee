"""Two-player zero-sum matrix games: equilibria, exact for few strategies, and Nash averaging."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from selfplay.core import SelfplayError
from selfplay.theory.exact import Whole, whole, zero_sum
from selfplay.theory.face import maximum_entropy, most_entropic, nash_face

Array = NDArray[np.float64]
EXACT = 400  # entries of the largest matrix that is solved in whole numbers where floats fail
GAP = 1e-9  # of the range of the payoffs that are played for: the most that floats may leave
NOISE = 1e-13  # of the range of all payoffs: what rounding of the payoffs themselves may be


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
    """A symmetric equilibrium of a meta-game, and how the players fare against it.

    Attributes:
        weights: [n] the equilibrium strategy.
        skills: [n] each player's return against it less the equilibrium's value: 0 for those it plays, at most 0 for
            the others.
        entropy: of the weights, in nats.
        gap: the largest skill, what a deviation gains: 0 but for rounding.
        method: which equilibrium it is, and how it was found.
    """

    weights: Array
    skills: Array
    entropy: float
    gap: float
    method: str


def solve(payoffs: ArrayLike) -> Equilibrium:
    """A Nash equilibrium (von Neumann 1928; Dantzig 1951).

    By HiGHS' dual simplex; where that leaves a gap of more than `GAP` of the range of the payoffs that are played for
    (small payoffs beside large ones, near ties), by the simplex method in whole numbers, so that the strategies are
    those of an exact equilibrium, rounded once.

    Args:
        payoffs: [n, m] what the row player earns and the column player pays.

    Raises:
        SelfplayError: the payoffs are no matrix of finite numbers; or HiGHS fails, and there are more than `EXACT`.
    """
    game = matrix(payoffs)
    numbers, unit = whole(game)
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
            return _equilibrium(numbers, unit, row, column, "linear programme (HiGHS)")
    _check_size(game)
    row, column = (np.array([float(share) for share in shares]) for shares in zero_sum(numbers))
    return _equilibrium(numbers, unit, distribution(row), distribution(column), "simplex in whole numbers")


def nash_averaging(payoffs: ArrayLike) -> NashAverage:
    """Nash averaging (Balduzzi et al. 2018, 1806.02643): the Nash strategy of maximum entropy, and skills.

    Only (payoffs - payoffs.T) / 2 is looked at; of a game that is not of constant sum this is another game, see
    `selfplay.theory.symmetric`. Unlike a mean over opponents or an Elo rating, the average is not moved by copies of a
    player, provided that the game has one symmetric equilibrium (nearly all games do); of several, copies move the one
    of maximum entropy. Copies always share alike.

    Promised is an equilibrium, with a gap of at most `GAP` of the range of the payoffs between those that are played,
    whatever the scale; payoffs that differ by rounding (`NOISE` of the largest) may count as equal. Of several
    equilibria it is the one of maximum entropy: the largest support by linear programmes, the entropy by a projected
    Newton method on the dual. Where floats fail (small payoffs beside large ones, near ties), the set of all equilibria
    is found in whole numbers first; should the entropy's maximum over it be missed, another point inside the set is
    given, and `method` says so.

    Args:
        payoffs: [n, n] the return of i against j.

    Raises:
        SelfplayError: the payoffs are no square matrix of finite numbers; or floats fail, and there are more than
            `EXACT`.
    """
    numbers, unit = whole(matrix(payoffs, square=True))
    game = numbers - numbers.T
    first, owner = copies(game)
    counts = np.bincount(owner).astype(np.float64)
    weights, method = _average(game[np.ix_(first, first)], counts)
    return nash_average(game, unit / 2, (weights / counts)[owner], method)


def nash_average(game: Whole, unit: Fraction, weights: Array, method: str) -> NashAverage:
    """The record of a symmetric equilibrium strategy [n] of a game [n, n] in that unit."""
    shares, _ = whole(weights)
    total = shares.sum()
    returns = [Fraction(x, total) for x in game @ shares]
    value = sum(r * Fraction(x, total) for r, x in zip(returns, shares, strict=True))
    skills = np.array([float(unit * (r - value)) for r in returns])
    entropy = -sum(float(w * np.log(w)) for w in weights if w > 0)
    return NashAverage(weights, skills, entropy, float(skills.max()), method)


def copies(game: Whole) -> tuple[list[int], list[int]]:
    """The players without those that play like an earlier one; and which of them each player [n] is. game [n, n]."""
    kinds: dict[tuple[tuple[Any, ...], tuple[Any, ...]], int] = {}
    owner = [kinds.setdefault((tuple(game[i]), tuple(game[:, i])), len(kinds)) for i in range(len(game))]
    return [owner.index(kind) for kind in range(len(kinds))], owner


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


def scaled(game: Whole) -> Array:
    """[n, m] the payoffs within [-1, 1]: less the middle of their range, over half of it."""
    least, most = game.min(), game.max()
    spread = (most - least) or 1
    return np.array([[float(Fraction(2 * x - most - least, spread)) for x in line] for line in game])


def antisymmetrised(payoffs: ArrayLike) -> Array:
    """[n, n] (M - M.T) / 2: how much better i fares against j than j against i, halved; errors as `matrix`."""
    game = matrix(payoffs, square=True)
    return game / 2 - game.T / 2


def distribution(weights: Array) -> Array:
    """[n] the weights without negative rounding, summing to 1."""
    positive = np.clip(weights, 0.0, None)
    return np.asarray(positive / positive.sum(), dtype=np.float64)


def _equilibrium(game: Whole, unit: Fraction, row: Array, column: Array, method: str) -> Equilibrium:
    """The record of these strategies; value and gap are exact, then rounded."""
    rows, columns = whole(row)[0], whole(column)[0]
    above, below = game @ columns, rows @ game
    value = Fraction(rows @ above, rows.sum() * columns.sum())
    gap = Fraction(above.max(), columns.sum()) - Fraction(below.min(), rows.sum())
    return Equilibrium(row, column, float(unit * value), float(unit * gap), method)


def _within(gap: float, played: Array) -> bool:
    """Whether a gap is one of rounding, for payoffs within [-1, 1], those between strategies that are played given."""
    return gap <= max(GAP * float(np.ptp(played)), NOISE)


def _check_size(game: Array) -> None:
    if game.size > EXACT:
        raise SelfplayError(
            f"this game of {game.shape[0]} x {game.shape[1]} payoffs between {game.min():.3g} and {game.max():.3g} has "
            f"near ties beyond floats, and more than {EXACT} payoffs are not solved exactly; leave some out"
        )


def _average(game: Whole, counts: Array) -> tuple[Array, str]:
    """The weights [n] of different players, each standing for so many, and how they were found."""
    largest = np.abs(game).max() or 1
    floats = np.array([[float(Fraction(x, largest)) for x in line] for line in game])
    weights = _by_linear_programs(floats, counts)
    if weights is not None and _fits(floats, weights):
        return weights, "Nash averaging: maximum entropy (HiGHS, projected Newton)"
    _check_size(floats)
    face = nash_face(game)
    inside = distribution(np.array([float(weight) for weight in face.inside]))
    if face.directions.shape[1] == 0:
        return inside, "Nash averaging: the only equilibrium (simplex in whole numbers)"
    weights = most_entropic(face, floats, counts)
    if _fits(floats, weights):
        return weights, "Nash averaging: maximum entropy (simplex in whole numbers, projected Newton)"
    return inside, "an equilibrium that plays all that any one plays; its entropy is not at its maximum"


def _fits(game: Array, weights: Array) -> bool:
    if not np.isfinite(weights).all():
        return False
    played = weights > 0
    return _within(float((game @ weights).max()), game[played][:, played])


def _by_linear_programs(game: Array, counts: Array) -> Array | None:
    """[n] the Nash strategy of maximum entropy; None where a linear programme fails."""
    support = _largest_support(game)
    if support is None:
        return None
    weights = np.zeros(len(game))
    inner, outer = game[support][:, support], game[~support][:, support]
    weights[support] = maximum_entropy(inner, outer, counts[support])
    return weights


def _linear_program(cost: Array, rows: Array, total: Array, bounds: Sequence[tuple[float | None, float | None]]) -> Any:
    """The minimum of cost @ x under rows @ x <= 0 and total @ x = 1, as scipy's OptimizeResult."""
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
    """[n] who has a positive weight in some Nash strategy (game @ p <= 0) of the antisymmetric game; None: HiGHS fails.

    Each linear programme gives the most weight to those not yet seen with one, until they can have none.
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
