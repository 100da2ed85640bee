"""Equilibria in integer arithmetic: simplex and complementary pivoting without rounding, for games of few strategies.

Every float is an integer times a power of two, so a matrix of floats is a matrix of integers times a unit, and
fraction-free pivots keep it integer (Edmonds 1967; Bareiss 1968). There are no tolerances: ties are detected exactly at
any scale. Ratio tests are lexicographic, so pivoting cannot cycle.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.object_]  # Python's arbitrary-precision integers


def as_integers(payoffs: NDArray[np.float64]) -> tuple[Integers, Fraction]:
    """Convert payoffs exactly to coprime integers and the unit that they are multiples of.

    Args:
        payoffs: [n] or [n, m], finite.
    """
    parts, powers = np.frexp(payoffs)
    least = int(powers[payoffs != 0].min(initial=0))
    shifted = [int(part) << (int(power) - least if part else 0) for part, power in zip(
        np.ldexp(parts, 53).astype(np.int64).flat, powers.flat, strict=True)]  # fmt: skip
    common = math.gcd(*shifted) or 1
    numbers: Integers = np.array([number // common for number in shifted], dtype=object).reshape(payoffs.shape)
    return numbers, common * Fraction(2) ** (least - 53)


class Tableau:
    """basic = (constants - columns @ nonbasic) / scale in integers, with all variables at least 0.

    The constants are perturbed by p infinitesimals of decreasing order for the lexicographic ratio test.

    Attributes:
        columns: [r, c] coefficients of the nonbasic variables.
        constants: [r, 1 + p] constants, then the coefficients of the infinitesimals.
        scale: common denominator, above 0.
        basic, nonbasic: names of the r basic and c nonbasic variables.
    """

    def __init__(self, columns: Integers, constants: Integers, basic: list[Any], nonbasic: list[Any]) -> None:
        self.columns, self.constants, self.scale = columns, constants, 1
        self.basic, self.nonbasic = basic, nonbasic

    def pivot(self, row: int, column: int) -> None:
        """Exchange the row's basic variable with the column's nonbasic one."""
        by, old = self.columns[row, column], self.scale
        entering, line, constants = self.columns[:, column].copy(), self.columns[row].copy(), self.constants[row].copy()
        self.columns = (self.columns * by - np.outer(entering, line)) // old
        self.constants = (self.constants * by - np.outer(entering, constants)) // old
        self.columns[:, column] = -entering
        self.columns[row], self.constants[row] = line, constants
        self.columns[row, column], self.scale = old, by
        if by < 0:
            self.columns, self.constants, self.scale = -self.columns, -self.constants, -by
        self.basic[row], self.nonbasic[column] = self.nonbasic[column], self.basic[row]

    def leaving(self, column: int, rows: int) -> int:
        """Index of the row, among the first `rows`, that wins the lexicographic ratio test for the entering column."""
        best = -1
        for row in range(rows):
            if self.columns[row, column] > 0 and (best < 0 or self._less(row, best, column)):
                best = row
        assert best >= 0, "the games' polytopes are bounded"
        return best

    def _less(self, one: int, other: int, column: int) -> bool:
        """Whether constants[one] / columns[one, column] is lexicographically smaller than that of `other`.

        Both divisors must have the same sign.
        """
        ours, theirs = abs(self.columns[one, column]), abs(self.columns[other, column])
        for mine, yours in zip(self.constants[one], self.constants[other], strict=True):
            if mine * theirs != yours * ours:
                return bool(mine * theirs < yours * ours)
        return False

    def maximise(self) -> None:
        """Maximise the free variable of the last row (Dantzig's rule)."""
        while True:
            slopes = self.columns[-1]
            column = int(np.argmin(slopes)) if len(slopes) else -1
            if column < 0 or slopes[column] >= 0:
                return
            self.pivot(self.leaving(column, len(self.basic) - 1), column)

    def value(self, name: Any) -> Fraction:
        """The variable's value at the basic solution, where all nonbasic variables are 0."""
        return Fraction(self.constants[self.basic.index(name), 0], self.scale) if name in self.basic else Fraction(0)

    def drop(self, columns: list[int]) -> None:
        """Fix these nonbasic variables at 0."""
        keep = [j for j in range(len(self.nonbasic)) if j not in set(columns)]
        self.columns, self.nonbasic = self.columns[:, keep], [self.nonbasic[j] for j in keep]


def zero_sum_tableau(game: Integers) -> Tableau:
    """The optimal tableau of a zero-sum game: maximise sum(y) subject to (game + shift) @ y <= 1.

    The shift makes every payoff at least 1. The variables are y, named ("column", j); the slacks, named ("row", i),
    whose prices give the row player's strategy; and "total", the objective in the last row.

    Args:
        game: [n, m] integer payoffs of the row player.
    """
    n, m = game.shape
    positive = game - game.min() + 1
    perturbed = np.eye(n + 1, n, dtype=np.int64).astype(object)
    constants = np.column_stack([np.array([1] * n + [0], dtype=object), perturbed])
    tableau = Tableau(
        np.vstack([positive, np.full((1, m), -1, dtype=object)]),
        constants,
        [*(("row", i) for i in range(n)), "total"],
        [("column", j) for j in range(m)],
    )
    tableau.maximise()
    return tableau


def zero_sum(game: Integers) -> tuple[list[Fraction], list[Fraction]]:
    """Optimal strategies [n] of the row player, who maximises, and [m] of the column player.

    Args:
        game: [n, m] integer payoffs of the row player.
    """
    (n, m), tableau = game.shape, zero_sum_tableau(game)
    total = tableau.value("total")
    column = [tableau.value(("column", j)) / total for j in range(m)]
    prices = dict(zip(tableau.nonbasic, tableau.columns[-1], strict=True))
    row = [Fraction(prices.get(("row", i), 0), tableau.scale) / total for i in range(n)]
    return row, column


def symmetric(game: Integers, prior: list[int]) -> list[Fraction]:
    """[n] a symmetric equilibrium strategy of the two-player game in which i earns game[i, j] against j.

    Complementary pivoting (Lemke 1965) starts from the best response to the prior and follows the linear tracing
    procedure of Harsanyi and Selten (van den Elzen and Talman 1991; von Stengel, van den Elzen and Talman 2002).

    Args:
        game: [n, n] integer payoffs.
        prior: [n] positive integer weights.
    """
    n = len(game)
    # With w = costs @ z - 1 + d z0 and z complementary to w, z is an unnormalised equilibrium at z0 = 0.
    costs = game.max() + 1 - game
    expected = costs @ np.array(prior, dtype=object)
    identity = np.eye(n, dtype=np.int64)[::-1].astype(object)
    tableau = Tableau(
        np.column_stack([-costs, -expected]),
        np.column_stack([np.full(n, -1, dtype=object), identity]),
        [("w", i) for i in range(n)],
        [*(("z", i) for i in range(n)), "z0"],
    )
    row = 0
    for other in range(1, n):
        row = other if tableau._less(other, row, n) else row
    column = n
    while True:
        left = tableau.basic[row]
        tableau.pivot(row, column)
        if left == "z0":
            break
        kind, i = left
        column = tableau.nonbasic.index(("z" if kind == "w" else "w", i))
        row = tableau.leaving(column, n)
    found = [tableau.value(("z", i)) for i in range(n)]
    return [share / sum(found) for share in found]
