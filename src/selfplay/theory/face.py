"""The polytope of all equilibria of a symmetric zero-sum game, computed exactly, and its maximum-entropy point."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from selfplay.theory.exact import Integers, Tableau, zero_sum_tableau

Array = NDArray[np.float64]
PATIENCE = 25  # Newton steps within which the gradient must halve; otherwise rounding dominates


@dataclass(frozen=True, eq=False)
class Face:
    """The set of Nash strategies of an antisymmetric game: all distributions p with game @ p <= 0.

    Attributes:
        inside: [n] a Nash strategy of maximal support.
        directions: [n, d] basis of the directions within the set, each with largest entry 1; d = 0 if it is a point.
        bounded: [n] bool: strategies with a negative return against some Nash strategy; these are the inequality
            constraints of the set.
    """

    inside: tuple[Fraction, ...]
    directions: Array
    bounded: NDArray[np.bool_]


def nash_face(game: Integers) -> Face:
    """The optimal face, from vertices that each maximise the sum of the variables that were 0 at all earlier ones."""
    n, tableau = len(game), zero_sum_tableau(game)
    total = tableau.value("total")
    tableau.drop([j for j, price in enumerate(tableau.columns[-1]) if price > 0])
    _remove_last(tableau)
    names = [*tableau.basic, *tableau.nonbasic]
    seen: set[Any] = set()
    corners: list[list[Fraction]] = []
    while True:
        goal = _maximise_sum(tableau, [name for name in names if name not in seen])
        if goal == 0:
            break
        corners.append([tableau.value(("column", i)) / total for i in range(n)])
        seen |= {name for name in names if tableau.value(name) > 0}
    inside = tuple(sum(weights) / len(corners) for weights in zip(*corners, strict=True))
    bounded = np.array([("row", i) in seen and ("column", i) not in seen for i in range(n)])
    return Face(inside, _directions(tableau, seen, n), bounded)


def _remove_last(tableau: Tableau) -> None:
    tableau.columns, tableau.constants = tableau.columns[:-1], tableau.constants[:-1]
    tableau.basic.pop()


def _maximise_sum(tableau: Tableau, names: list[Any]) -> Fraction:
    """Move to a vertex that maximises the sum of these variables; return the sum."""
    wanted = set(names)
    rows = [i for i, name in enumerate(tableau.basic) if name in wanted]
    free = np.array([tableau.scale if name in wanted else 0 for name in tableau.nonbasic], dtype=object)
    tableau.columns = np.vstack([tableau.columns, tableau.columns[rows].sum(0) - free])
    tableau.constants = np.vstack([tableau.constants, tableau.constants[rows].sum(0)])
    tableau.basic.append("sum")
    tableau.maximise()
    reached = tableau.value("sum")
    _remove_last(tableau)
    return reached


def _directions(tableau: Tableau, seen: set[Any], n: int) -> Array:
    """[n, d] derivative of the weights by each free variable, with variables that are 0 on the whole face removed."""
    tableau.drop([j for j, name in enumerate(tableau.nonbasic) if name not in seen])
    for row, name in enumerate(tableau.basic):
        if name not in seen and tableau.columns[row].any():
            column = int(np.flatnonzero(tableau.columns[row])[0])
            tableau.pivot(row, column)
            tableau.drop([column])
    moved = np.zeros((n, len(tableau.nonbasic)), dtype=object)
    for row, (kind, i) in enumerate(tableau.basic):
        if kind == "column":
            moved[i] = -tableau.columns[row]
    for column, (kind, i) in enumerate(tableau.nonbasic):
        if kind == "column":
            moved[i, column] = tableau.scale
    longest = np.abs(moved).max(0, initial=1)
    return np.array([[float(Fraction(x, most)) for x, most in zip(line, longest, strict=True)] for line in moved])


def most_entropic(face: Face, game: Array, copies: Array) -> Array:
    """[n] the strategy of maximum entropy on the face, with each weight split equally among its copies.

    Args:
        face: face of the game, with d > 0.
        game: [n, n] payoffs, in any unit.
        copies: [n] number of duplicates of each strategy in the full game.
    """
    inside = np.array([float(weight) for weight in face.inside])
    support = inside > 0
    hull = np.column_stack([inside, face.directions])[support]
    left, sizes, _ = np.linalg.svd(hull / np.abs(hull).max(0))
    across = left[:, int((sizes > 1e-12 * sizes[0]).sum()) :].T
    below = game[face.bounded][:, support]
    weights = np.zeros(len(inside))
    weights[support] = maximum_entropy(
        across, below / np.abs(below).max(1, initial=0.0, keepdims=True), copies[support]
    )
    return weights


def maximum_entropy(equal: Array, below: Array, copies: Array) -> Array:
    """[s] the maximum-entropy distribution p with equal @ p = 0 and below @ p <= 0.

    The entropy is that of p with each weight split equally among its copies. The solution is proportional to
    copies * exp(-rows.T @ duals), where the duals, non-negative for `below`, minimise the log normaliser: a projected
    Newton method (Bertsekas 1982).

    Args:
        equal: [e, s] rows of the equality constraints.
        below: [b, s] rows of the inequality constraints; some p > 0 must satisfy all constraints.
        copies: [s] number of duplicates of each strategy.
    """
    rows = np.vstack([equal, below])
    signed = np.arange(len(rows)) >= len(equal)
    prior, duals = np.log(copies), np.zeros(len(rows))
    value = float(logsumexp(prior - rows.T @ duals))
    best, since = np.inf, 0
    for _ in range(500):
        weights = np.asarray(softmax(prior - rows.T @ duals), dtype=np.float64)
        slope = -rows @ weights
        free = ~signed | (duals > 0) | (slope < 0)
        size = np.abs(slope[free]).max(initial=0.0)
        best, since = (size, 0) if size < best / 2 else (best, since + 1)
        if size < 1e-14 or since > PATIENCE:
            break
        centred = rows[free] - (rows[free] @ weights)[:, None]
        curvature = (centred * weights) @ centred.T + np.clip(size, 1e-10, 1e-3) * 1e-3 * np.eye(int(free.sum()))
        step = np.zeros(len(rows))
        step[free] = np.linalg.solve(curvature, slope[free])
        for halving in range(60):
            trial = duals - step * 0.5**halving
            trial[signed] = trial[signed].clip(0.0)
            reached = float(logsumexp(prior - rows.T @ trial))
            if reached <= value + 1e-4 * float(slope @ (trial - duals)) + 4e-16:
                break
        else:
            break  # no measurable descent: at rounding level
        duals, value = trial, reached
    return np.asarray(softmax(prior - rows.T @ duals), dtype=np.float64)
