"""Equilibria of awkward games: near ties, copies, scales from 1e-9 to 1e9, general sums; gaps in exact fractions."""

import math
from fractions import Fraction

import nashpy
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from selfplay.core import SelfplayError
from selfplay.theory import exact, meta
from selfplay.theory.symmetric import equilibrium
from selfplay.theory.zero_sum import nash_averaging, solve

Array = NDArray[np.float64]
Rng = np.random.Generator
RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
NEAR_TIES = np.array(
    [
        [0, 0.9999999732875333, -0.9999999854295636],
        [-0.9999999732875333, 0, 2.428406062229583e-08],
        [0.9999999854295636, -2.428406062229583e-08, 0],
    ]
)
CHICKEN = [[0.0, -1.0], [1.0, -10.0]]


def fractions(values: ArrayLike) -> list[list[Fraction]]:
    return [[Fraction(x) for x in line] for line in np.atleast_2d(np.array(values, dtype=np.float64)).tolist()]


def zero_sum_gap(payoffs: ArrayLike, row: Array, column: Array) -> tuple[Fraction, Fraction]:
    """NashConv of the strategies, normalised, and the range of the payoffs."""
    game, [p], [q] = fractions(payoffs), fractions(row), fractions(column)
    best = max(sum(a * b for a, b in zip(line, q, strict=True)) for line in game) / sum(q)
    worst = min(sum(a * b for a, b in zip(line, p, strict=True)) for line in zip(*game, strict=True)) / sum(p)
    entries = [x for line in game for x in line]
    return best - worst, max(entries) - min(entries)


def symmetric_gap(payoffs: ArrayLike, weights: Array) -> tuple[Fraction, Fraction]:
    """What a deviation from the weights, normalised, gains against them, and the range of the payoffs."""
    game, [p] = fractions(payoffs), fractions(weights)
    returns = [sum(a * b for a, b in zip(line, p, strict=True)) / sum(p) for line in game]
    entries = [x for line in game for x in line]
    return max(returns) - sum(a * b for a, b in zip(returns, p, strict=True)) / sum(p), max(entries) - min(entries)


def antisymmetric(payoffs: Array) -> Array:
    return np.asarray(payoffs - payoffs.T, dtype=np.float64)


def awkward(rng: Rng, n: int, m: int, kind: int) -> Array:
    """A matrix with near ties, doubled rows, or entries of many sizes, and a scale of 1e-9 to 1e9."""
    game = rng.integers(-1, 2, size=(n, m)) + (10.0 ** rng.uniform(-16, -6)) * rng.normal(size=(n, m))
    if kind == 1:
        game = rng.normal(size=(n, m))[rng.integers(0, n, size=n)]
    if kind == 2:
        game = rng.normal(size=(n, m)) * 10.0 ** rng.uniform(-9, 0, size=(n, m))
    if kind == 3:
        game = rng.normal(size=(n, m)) + rng.choice([0.0, -1e9], size=(n, m), p=[0.8, 0.2])
    return np.asarray(game * 10.0 ** rng.uniform(-9, 9), dtype=np.float64)


def matrices(count: int, seed: int, square: bool = False) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = [rng.integers(1, 8, size=2) for _ in range(count)]
    return [awkward(rng, int(n), int(n if square else m), i % 4) for i, (n, m) in enumerate(shapes)]


# --- zero-sum ---------------------------------------------------------------------------------------------------------


def test_an_equilibrium_of_any_small_zero_sum_game() -> None:
    for game in matrices(200, seed=0):
        found = solve(game)
        gap, spread = zero_sum_gap(game, found.row, found.column)
        assert gap <= Fraction(1e-6) * spread, (game.tolist(), found)
        assert found.gap == pytest.approx(float(gap), abs=1e-15 * float(spread))
        assert game.min() <= found.value <= game.max()


def test_whole_numbers_leave_no_gap_and_the_value_is_nashpys() -> None:
    rng = np.random.default_rng(1)
    for i, game in enumerate(matrices(60, seed=2)):
        row, column = exact.zero_sum(exact.as_integers(game)[0])
        entries = fractions(game)
        best = max(sum(a * b for a, b in zip(line, column, strict=True)) for line in entries)
        assert best == min(sum(a * b for a, b in zip(line, row, strict=True)) for line in zip(*entries, strict=True))
        assert sum(row) == sum(column) == 1 and min(*row, *column) >= 0
        plain = rng.integers(-3, 4, size=(i % 5 + 1, 4)).astype(float)
        p, q = nashpy.Game(plain).linear_program()
        assert float(Fraction(*(solve(plain).value).as_integer_ratio())) == pytest.approx(p @ plain @ q, abs=1e-6)


def test_nash_averages_of_near_ties_copies_and_any_scale() -> None:
    for game in [NEAR_TIES, *map(antisymmetric, matrices(200, seed=3, square=True))]:
        found = nash_averaging(game)
        gap, spread = symmetric_gap(game, found.weights)
        assert gap <= Fraction(1e-6) * spread, (game.tolist(), found)
        assert found.weights.min() >= 0 and found.weights.sum() == pytest.approx(1)


def test_copies_share_and_leave_the_average_where_it_was() -> None:
    rng = np.random.default_rng(4)
    for i, few in enumerate([NEAR_TIES, *map(antisymmetric, matrices(40, seed=5, square=True))]):
        owner = np.append(np.arange(len(few)), rng.integers(0, len(few), size=3))
        found = nash_averaging(few[np.ix_(owner, owner)]).weights
        for one, other in zip(owner, found, strict=True):
            assert other == found[one], i
        gap, spread = symmetric_gap(few, np.bincount(owner, found))
        assert gap <= Fraction(1e-6) * spread


def test_the_average_of_near_ties_is_the_only_equilibrium() -> None:
    """Of three players it is proportional to what the other two win of each other."""
    by_hand = np.array([NEAR_TIES[1, 2], NEAR_TIES[2, 0], NEAR_TIES[0, 1]])
    for scale in (1.0, 1e-9, 1e9, 1e300):
        assert nash_averaging(scale * NEAR_TIES).weights == pytest.approx(by_hand / by_hand.sum(), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e9, 8e307])
def test_small_payoffs_beside_large_ones(scale: float) -> None:
    """Rock, paper, scissors, and somebody who loses 1e9 to all of them, or a forfeit in another's row."""
    game = np.zeros((4, 4))
    game[:3, :3] = RPS
    game[3, :3], game[:3, 3] = -1e9, 1e9
    game *= scale / 1e9
    third = [1 / 3, 1 / 3, 1 / 3, 0]
    assert meta.nash(game) == pytest.approx(third)
    assert nash_averaging(game).weights == pytest.approx(third)
    found = solve(game)
    assert found.row == pytest.approx(third) and found.column == pytest.approx(third)


def test_the_largest_and_the_smallest_floats() -> None:
    big, least = 1.7e308, 5e-324
    found = solve([[big, -big], [-big, big]])
    assert found.row.tolist() == found.column.tolist() == [0.5, 0.5] and found.value == 0 and found.gap == 0
    assert solve([[big]]).value == big and solve([[big, big], [big, big]]).value == big
    assert solve([[least, -least], [-least, least]]).row.tolist() == [0.5, 0.5]
    assert nash_averaging(big * RPS).weights == pytest.approx(np.full(3, 1 / 3))
    assert nash_averaging([[0, least], [0, 0]]).weights.tolist() == [1, 0]
    assert meta.nash(least * RPS) == pytest.approx(np.full(3, 1 / 3))
    assert solve(np.zeros((3, 2))).value == 0 and meta.nash([[7.0]]).tolist() == [1.0]


def test_a_constant_changes_no_strategy() -> None:
    for shift in (1.0, -1e3, 1e6):
        assert solve(RPS + shift).row == pytest.approx(np.full(3, 1 / 3)) and solve(RPS + shift).value == shift
        assert meta.nash(RPS + shift) == pytest.approx(np.full(3, 1 / 3))
        assert meta.nash(np.array(CHICKEN) + shift) == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    for call in (solve, nash_averaging, meta.nash, equilibrium):
        with pytest.raises(SelfplayError, match=r"payoffs\[0, 1\] is -?(nan|inf); give finite numbers"):
            call([[0.0, bad], [0.0, 0.0]])  # type: ignore[operator]


# --- general sum ------------------------------------------------------------------------------------------------------


def test_a_symmetric_equilibrium_of_the_game_itself() -> None:
    for game in matrices(200, seed=6, square=True):
        found = equilibrium(game)
        gap, spread = symmetric_gap(game, found.weights)
        assert gap <= Fraction(1e-6) * spread, (game.tolist(), found)
        assert found.gap == pytest.approx(float(gap), abs=1e-15 * float(spread))
        assert meta.nash(game).tolist() == found.weights.tolist()


def test_it_is_one_of_nashpys() -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        game = rng.normal(size=(4, 4))
        found = equilibrium(game).weights
        every = list(nashpy.Game(game, game.T).support_enumeration())
        if len(every) % 2:  # else nashpy has missed one
            assert any(np.allclose(found, row) and np.allclose(found, column) for row, column in every)


def test_classics() -> None:
    """Chicken has one symmetric equilibrium. Of the stag hunt's three, the uniform mixture leads to the first of two
    that are equally good replies to it; with a higher stake on hares, to hares."""
    assert meta.nash(CHICKEN).tolist() == [0.9, 0.1]
    assert meta.nash([[3, 0], [5, 1]]).tolist() == [0, 1]
    assert meta.nash([[4, 1], [3, 2]]).tolist() == [1, 0]
    assert meta.nash([[4, 1], [3.5, 2]]).tolist() == [0, 1]
    shared = meta.nash(np.array(CHICKEN)[np.ix_([0, 0, 1], [0, 0, 1])])
    assert shared == pytest.approx([0.45, 0.45, 0.1])


@pytest.mark.parametrize("scale", [1e-9, 1e9, 1e306])
def test_general_sums_do_not_depend_on_the_scale(scale: float) -> None:
    assert meta.nash(scale * np.array(CHICKEN)) == pytest.approx([0.9, 0.1])


def test_too_many_strategies_are_refused_with_what_is_right() -> None:
    game = np.random.default_rng(8).normal(size=(61, 61))
    with pytest.raises(SelfplayError, match="use meta_solver=alpha_rank, replicator or uniform"):
        meta.nash(game)
    assert meta.nash(game - game.T).shape == (61,)
