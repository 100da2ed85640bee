"""Equilibria, dynamics, Alpha-Rank, cycles and ratings against nashpy, OpenSpiel, choix and cases worked by hand."""

import math
from collections.abc import Callable

import choix
import nashpy
import numpy as np
import pytest
from numpy.typing import NDArray
from open_spiel.python.egt import alpharank as spiel_alpharank
from open_spiel.python.egt import dynamics as spiel_dynamics
from scipy.integrate import solve_ivp
from scipy.optimize import linprog
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import binom

from selfplay.core import SelfplayError
from selfplay.theory import dynamics, meta
from selfplay.theory.alpha_rank import alpha_rank, alpha_rank_profiles
from selfplay.theory.cycles import count_three_cycles, cyclic_share, hodge, three_cycles
from selfplay.theory.dynamics import quantal_response, replicator, replicator_average, replicator_derivative
from selfplay.theory.ratings import bradley_terry, elo, elo_scale
from selfplay.theory.zero_sum import NashAverage, antisymmetrised, nash_averaging, solve

Array = NDArray[np.float64]
Rng = np.random.Generator
RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
KINDS: dict[str, Callable[[Rng, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=(n, n)),
    "ties": lambda rng, n: rng.integers(-1, 2, size=(n, n)).astype(float),
    "win rates": lambda rng, n: rng.binomial(20, 0.5, size=(n, n)) / 20,
    "low rank": lambda rng, n: np.outer(rng.normal(size=n), rng.normal(size=n)),
    "copies": lambda rng, n: rng.normal(size=(n, n))[np.ix_(*[rng.integers(0, n // 2 + 1, size=n)] * 2)],
}


def instances(count: int, largest: int, seed: int) -> list[Array]:
    """Square meta-games of every kind in turn, of 1 to `largest` players."""
    rng, kinds = np.random.default_rng(seed), list(KINDS.values())
    return [kinds[i % len(kinds)](rng, int(rng.integers(1, largest + 1))) for i in range(count)]


# zero_sum


def test_value_is_nashpys_and_nobody_gains_by_deviating() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        unit, scale = rng.normal(size=rng.integers(2, 5, size=2)), 10 ** rng.uniform(-3, 3)
        row, column = nashpy.Game(unit).lemke_howson(initial_dropped_label=0)
        game = scale * unit
        found = solve(game)
        assert found.value == pytest.approx(row @ game @ column, abs=1e-8 * scale)
        assert (game @ found.column).max() - found.value < 1e-8 * scale
        assert found.value - (found.row @ game).min() < 1e-8 * scale


def test_degenerate_games_and_games_of_one_strategy() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        game = rng.integers(-2, 3, size=rng.integers(1, 13, size=2)).astype(float)
        found = solve(game)
        row, column = nashpy.Game(game).linear_program()
        assert found.value == pytest.approx(row @ game @ column, abs=1e-6)
        gap = (game @ found.column).max() - (found.row @ game).min()
        assert found.gap == pytest.approx(gap, abs=1e-15) and abs(gap) < 1e-8
        for strategy in (found.row, found.column):
            assert strategy.min() >= 0 and strategy.sum() == pytest.approx(1, abs=1e-12)


def entropy_to_gain(game: Array, found: NashAverage) -> tuple[float, float]:
    """How far the entropy may be below the largest (the linear bound of a concave function), and weight left out."""
    n, used = len(game), found.weights > 0
    polytope = {"A_ub": game, "b_ub": np.zeros(n), "A_eq": np.ones((1, n)), "b_eq": [1.0]}
    logs = np.log(np.where(used, found.weights, 1.0))
    inside = linprog(logs, bounds=[(0, None) if u else (0, 0) for u in used], **polytope)
    outside = linprog(-(~used).astype(float), **polytope)
    return -inside.fun - found.entropy, -outside.fun


def test_nash_averaging_is_the_nash_strategy_of_largest_entropy() -> None:
    for payoffs in [*instances(200, 12, seed=2), *instances(5, 60, seed=3)]:
        game, found = antisymmetrised(payoffs), nash_averaging(payoffs)
        assert found.gap < 1e-10 and found.weights.sum() == pytest.approx(1, abs=1e-12)
        assert found.skills == pytest.approx(game @ found.weights)
        gain, left_out = entropy_to_gain(game, found)
        assert gain < 1e-7 and left_out < 1e-7


def test_nash_averaging_is_not_moved_by_copies() -> None:
    """1806.02643: property P1, where the Nash strategy is unique; copies share their player's weight."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        n = int(rng.integers(1, 7))
        payoffs, owner = rng.normal(size=(n, n)), np.append(np.arange(n), rng.integers(0, n, size=rng.integers(1, 5)))
        before, after = nash_averaging(payoffs), nash_averaging(payoffs[np.ix_(owner, owner)])
        assert after.skills == pytest.approx(before.skills[owner], abs=1e-9)
        assert after.weights == pytest.approx((before.weights / np.bincount(owner))[owner], abs=1e-9)


def test_nash_averaging_by_hand() -> None:
    for n in (1, 2, 7, 60):
        assert nash_averaging(np.zeros((n, n))).weights == pytest.approx(np.full(n, 1 / n))
    owner = [0, 0, 0, 1, 2, 2]
    copies = nash_averaging(RPS[np.ix_(owner, owner)])
    assert copies.weights == pytest.approx(np.array([2, 2, 2, 6, 3, 3]) / 18)
    assert copies.skills == pytest.approx(np.zeros(6), abs=1e-12)
    two = np.zeros((8, 8))
    two[:3, :3] = RPS
    two[3:, 3:] = [[0, 1, 1, -1, -1], [-1, 0, 1, 1, -1], [-1, -1, 0, 1, 1], [1, -1, -1, 0, 1], [1, 1, -1, -1, 0]]
    assert nash_averaging(two).weights == pytest.approx(np.full(8, 1 / 8))
    # a and b tie; c loses 1 to a and beats b by 2: c stays out as long as a is played twice as often as b
    bounded = nash_averaging([[0, 0, 1], [0, 0, -2], [-1, 2, 0]])
    assert bounded.weights == pytest.approx([2 / 3, 1 / 3, 0]) and bounded.skills == pytest.approx([0, 0, 0], abs=1e-12)


# dynamics


def test_replicator_derivative_is_openspiels() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        n = int(rng.integers(1, 7))
        game, state = rng.normal(size=(n, n)), rng.dirichlet(np.ones(n))
        theirs = spiel_dynamics.SinglePopulationDynamics(np.array([game, game.T]), spiel_dynamics.replicator)
        assert replicator_derivative(game, state) == pytest.approx(theirs(state), abs=1e-13)


def test_replicator_trajectories_are_those_of_openspiels_dynamics() -> None:
    rng = np.random.default_rng(6)
    for i in range(200):
        n, m = (int(k) for k in rng.integers(1, 4, size=2))
        alone = i % 2 == 0
        games = [rng.normal(size=(n, n))] if alone else [rng.normal(size=(n, m)), rng.normal(size=(n, m))]
        starts = [rng.dirichlet(np.ones(k)) for k in games[0].shape][: len(games)]
        theirs = (
            spiel_dynamics.SinglePopulationDynamics(np.array([games[0], games[0].T]), spiel_dynamics.replicator)
            if alone
            else spiel_dynamics.MultiPopulationDynamics(np.array(games), spiel_dynamics.replicator)
        )
        flow = solve_ivp(lambda t, x, f=theirs: f(x), (0, 2), np.concatenate(starts), "LSODA", rtol=1e-9, atol=1e-10)
        column = {} if alone else {"column_start": starts[1]}
        ours = replicator(*games, duration=2.0, points=3, start=starts[0], **column)
        last = ours.row[-1] if alone else np.concatenate([ours.row[-1], ours.column[-1]])
        assert last == pytest.approx(flow.y[:, -1], abs=1e-6)
        assert ours.row[0] == pytest.approx(starts[0]) and ours.times.tolist() == [0, 1, 2]


def test_replicator_average_is_within_its_regret_bound() -> None:
    """The continuous average of a symmetric zero-sum game is exploitable by at most log(n) / duration."""
    for payoffs in instances(200, 6, seed=7):
        game = antisymmetrised(payoffs)
        average = replicator_average(game, duration=10.0)
        assert average.sum() == pytest.approx(1, abs=1e-12) and average.min() >= 0
        assert (game @ average).max() <= math.log(len(game)) / 10 + 1e-7


def test_exponential_weights_by_hand() -> None:
    found = replicator([[0, 2], [1, 0]], duration=1.0, points=2, discrete=True)
    assert found.row[1] == pytest.approx(np.array([math.e, math.sqrt(math.e)]) / (math.e + math.sqrt(math.e)))
    assert found.row_average == pytest.approx([0.5, 0.5])


def test_quantal_response_solves_its_equations() -> None:
    """Zero-sum games have one; in every game the entropy costs at most beta (log n + log m) of NashConv."""
    rng = np.random.default_rng(8)
    for i in range(200):
        n, m = (int(k) for k in rng.integers(1, 5, size=2))
        game, beta = rng.normal(size=(n, m)), float(10 ** rng.uniform(-1.5, 1))
        other = -game if i % 2 else rng.normal(size=(n, m))
        r, c = (
            (np.full(n, 1 / n), np.full(m, 1 / m))
            if i % 4 < 2
            else (rng.dirichlet([5.0] * n), rng.dirichlet([5.0] * m))
        )
        found = quantal_response(game, None if i % 2 else other, beta=beta, row_reference=r, column_reference=c)
        row, column = r * np.exp(game @ found.column / beta), c * np.exp(found.row @ other / beta)
        assert found.row == pytest.approx(row / row.sum(), abs=1e-9)
        assert found.column == pytest.approx(column / column.sum(), abs=1e-9)
        gains = (game @ found.column).max() - found.row_value + (found.row @ other).max() - found.column_value
        assert gains <= -(math.log(r.min()) + math.log(c.min())) * beta + 1e-9


def test_quantal_response_by_hand() -> None:
    """The principal branch of a coordination game ends in its risk-dominant equilibrium (McKelvey and Palfrey 1995)."""
    assert quantal_response(RPS, beta=0.02).row == pytest.approx(np.full(3, 1 / 3))
    assert quantal_response(RPS, beta=math.inf, row_reference=[0.2, 0.3, 0.5]).row == pytest.approx([0.2, 0.3, 0.5])
    stag = np.array([[4.0, 0.0], [3.0, 2.0]])
    assert quantal_response(stag, stag.T, beta=1 / 30).row == pytest.approx([0, 1], abs=1e-6)
    single = quantal_response([[1.0], [0.0]], beta=0.5)
    assert single.row[0] == pytest.approx(expit(2.0))


# alpha_rank


def test_alpha_rank_is_openspiels() -> None:
    rng = np.random.default_rng(9)
    for i in range(200):
        m, alpha = int(rng.integers(2, 20)), float(10 ** rng.uniform(-2, 0))
        shape = tuple(int(k) for k in rng.integers(2, 5, size=2))
        if i % 2:
            n = int(rng.integers(2, 7))
            game = rng.uniform(-1, 1, size=(n, n)) if i % 4 == 1 else rng.integers(-1, 2, size=(n, n)).astype(float)
            ours, theirs = alpha_rank(game, alpha, m), spiel_alpharank.compute([game], m=m, alpha=alpha)[2]
        else:
            games = [rng.uniform(-1, 1, size=shape), rng.uniform(-1, 1, size=shape)]
            ours, theirs = alpha_rank_profiles(games, alpha, m), spiel_alpharank.compute(games, m=m, alpha=alpha)[2]
        assert ours.distribution.ravel() == pytest.approx(theirs, abs=1e-8)


def test_alpha_rank_of_any_alpha_is_the_markov_chain_tree_theorem() -> None:
    """Three strategies: a state's weight is the sum over its three in-trees, here in logs, far beyond underflow."""

    def log_rate(i: int, j: int) -> float:  # 1 / (1 + sum_l exp(-l u))
        return -float(logsumexp(-np.arange(m) * alpha * (game[j, i] - game[i, j])))

    rng = np.random.default_rng(10)
    for _ in range(200):
        game, alpha, m = rng.integers(-2, 3, size=(3, 3)) / 2, float(10 ** rng.uniform(-1, 4)), int(rng.integers(2, 60))
        trees = [
            logsumexp(
                [log_rate(j, i) + log_rate(k, i), log_rate(j, k) + log_rate(k, i), log_rate(k, j) + log_rate(j, i)]
            )
            for i, j, k in [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
        ]
        assert alpha_rank(game, alpha, m).distribution == pytest.approx(np.exp(trees - logsumexp(trees)), abs=1e-8)


def test_alpha_rank_by_hand() -> None:
    assert alpha_rank(RPS, alpha=1e9).distribution == pytest.approx(np.full(3, 1 / 3))
    ranked = np.subtract.outer([3.0, 1.0, 2.0], [3.0, 1.0, 2.0])
    assert alpha_rank(ranked, alpha=1e6).distribution == pytest.approx([1, 0, 0])
    matching = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert alpha_rank_profiles([matching, -matching]).distribution == pytest.approx(np.full((2, 2), 1 / 4))
    three = [np.broadcast_to(np.arange(2.0).reshape(shape), (2, 2, 2)) for shape in [(2, 1, 1), (1, 2, 1), (1, 1, 2)]]
    found = alpha_rank_profiles(three)
    assert found.distribution[1, 1, 1] == pytest.approx(1) and found.marginal(1) == pytest.approx([0, 1])


# cycles


def test_hodge_splits_orthogonally_into_nearest_ratings_and_the_rest() -> None:
    for payoffs in instances(200, 9, seed=11):
        game, found = antisymmetrised(payoffs), hodge(payoffs)
        assert found.transitive + found.cyclic == pytest.approx(game, abs=1e-12)
        assert (found.transitive * found.cyclic).sum() == pytest.approx(0, abs=1e-9)
        n = len(game)
        design = np.kron(np.eye(n), np.ones((n, 1))) - np.kron(np.ones((n, 1)), np.eye(n))
        best, *_ = np.linalg.lstsq(design, game.ravel(), rcond=None)
        assert found.ratings == pytest.approx(best - best.mean(), abs=1e-9)
        assert 0 <= found.cyclic_share <= 1 and found.cyclic_share == pytest.approx(cyclic_share(-7 * payoffs))


def test_cyclic_share_by_hand() -> None:
    ratings = np.array([0.3, -1.0, 2.5, 7.0])
    differences = ratings[:, None] - ratings[None]
    assert cyclic_share(RPS) == 1.0 and cyclic_share(1e-200 * RPS) == pytest.approx(1.0)
    assert cyclic_share(differences) == pytest.approx(0.0, abs=1e-30) and cyclic_share(np.zeros((4, 4))) == 0.0
    step = np.subtract.outer([1.0, 0.0, -1.0], [1.0, 0.0, -1.0])  # squares: 12 here, 6 in rock-paper-scissors
    assert cyclic_share(step + 2 * RPS) == pytest.approx(24 / 36)


def test_three_cycles() -> None:
    assert three_cycles(RPS) == ((0, 2, 1),) and three_cycles(-RPS) == ((0, 1, 2),)
    assert three_cycles(RPS, margin=1.0) == () and three_cycles(np.zeros((3, 3))) == ()
    for payoffs in instances(200, 9, seed=12):
        n, beats = len(payoffs), antisymmetrised(payoffs) > 0.1
        slow = [
            (i, j, k)
            for i in range(n)
            for j in range(i + 1, n)
            for k in range(i + 1, n)
            if beats[i, j] and beats[j, k] and beats[k, i]
        ]
        assert list(three_cycles(payoffs, 0.1)) == slow and count_three_cycles(payoffs, 0.1) == len(slow)


# ratings


def tournament(rng: Rng, ratings: Array, games: int) -> Array:
    """[n, n] wins of a tournament with so many games a pair."""
    wins = np.zeros((len(ratings), len(ratings)))
    for i in range(len(ratings)):
        for j in range(i):
            wins[i, j] = rng.binomial(games, expit(ratings[i] - ratings[j]))
            wins[j, i] = games - wins[i, j]
    return wins


def test_bradley_terry_is_choixs() -> None:
    rng = np.random.default_rng(13)
    for i in range(200):
        n = int(rng.integers(2, 9))
        wins = tournament(rng, rng.normal(size=n), int(rng.integers(1, 20 if i % 2 else 4)))
        if i % 2:
            wins += np.roll(np.eye(n), 1, axis=0) / 2 + np.roll(np.eye(n), -1, axis=0) / 2  # draws around the circle
            theirs = choix.ilsr_pairwise_dense(wins, max_iter=10_000, tol=1e-12)
            assert bradley_terry(wins).ratings == pytest.approx(theirs, abs=1e-6)
        else:
            data = [(int(a), int(b)) for a, b in np.argwhere(wins) for _ in range(int(wins[a, b]))]
            theirs = choix.opt_pairwise(n, data, alpha=0.2, method="BFGS", tol=1e-8)
            assert bradley_terry(wins, prior=0.4).ratings == pytest.approx(theirs - theirs.mean(), abs=1e-5)


def test_bradley_terry_by_hand() -> None:
    """Two players, 30 wins to 10: log 3 apart, with the variance 1 / 30 + 1 / 10 of a log-odds."""
    found = bradley_terry([[0, 30], [10, 0]])
    gap, low, high = found.difference(0, 1)
    assert gap == pytest.approx(math.log(3)) and found.elo(1500).sum() == pytest.approx(3000)
    wald = 1.959964 * math.sqrt(1 / 30 + 1 / 10)
    assert low == pytest.approx(gap - wald) and gap + wald < high < gap + 1.1 * wald, "the likelihood ratio's is skewed"
    fall = 30 * log_expit(high) + 10 * log_expit(-high) - found.log_likelihood
    assert 2 * fall == pytest.approx(-(1.959964**2))
    assert found.intervals()[0] * 2 == pytest.approx([low, high])
    assert found.elo_intervals(1500.0) == pytest.approx(1500 + elo_scale(found.intervals()))
    assert found.log_likelihood == pytest.approx(30 * math.log(0.75) + 10 * math.log(0.25))
    assert elo_scale(math.log(10)) == pytest.approx(400)
    assert bradley_terry([[0]]).ratings.tolist() == [0.0]
    assert bradley_terry([[0, 50], [0, 0]], prior=1e-3).ratings[0] > 2


def test_bradley_terry_intervals_cover() -> None:
    """300 tournaments: each 95 % interval covers the truth as often as a binomial count would, within 3.3 sigma."""
    rng, truth = np.random.default_rng(14), np.array([1.5, 0.5, 0.0, -0.3, -0.7, -1.0])
    rated, apart, elo_rated = 0, 0, 0
    for _ in range(300):
        found = bradley_terry(tournament(rng, truth, 40))
        low, high = found.intervals()[0]
        rated += low <= truth[0] <= high
        low, high = found.elo_intervals(1000.0)[5]
        elo_rated += low <= 1000 + elo_scale(truth[5]) <= high
        _, low, high = found.difference(1, 4)
        apart += low <= truth[1] - truth[4] <= high
    least, most = binom.ppf([0.0005, 0.9995], 300, 0.95)
    assert all(least <= covered <= most for covered in (rated, elo_rated, apart)), (rated, elo_rated, apart)


@pytest.mark.parametrize("games", [8, 64])
def test_the_interval_of_a_rating_covers_also_where_nearly_all_games_are_won(games: int) -> None:
    """Two players with cross-play's prior, by every possible number of wins."""
    ends = np.array([bradley_terry([[0, w], [games - w, 0]], prior=0.1).difference(0, 1) for w in range(games + 1)])
    assert (ends[:, 1] < ends[:, 2] - 0.8).all()
    for gap in np.linspace(0, 7, 29):
        covered = (ends[:, 1] <= gap) & (gap <= ends[:, 2])
        assert binom.pmf(np.arange(games + 1), games, expit(gap))[covered].sum() >= 0.89


def test_elo_by_hand() -> None:
    found = elo([(0, 1, 1.0), (1, 2, 0.5)], 3, k=20.0, start=1500.0)
    change = 20 * (0.5 - 1 / (1 + 10 ** (10 / 400)))
    assert found.ratings == pytest.approx([1510, 1490 + change, 1500 - change]) and found.games == 2


# meta


@pytest.mark.parametrize("solver", [meta.nash, meta.uniform, meta.replicator, meta.alpha_rank])
def test_meta_solvers_give_distributions(solver: meta.MetaSolver) -> None:
    assert solver([[0.3]]).tolist() == [1.0]
    assert solver(RPS) == pytest.approx(np.full(3, 1 / 3), abs=1e-6)
    for payoffs in instances(10, 6, seed=15):
        weights = solver(payoffs)
        assert weights.dtype == np.float64 and weights.shape == (len(payoffs),)
        assert weights.sum() == pytest.approx(1, abs=1e-12) and weights.min() >= 0
    with pytest.raises(SelfplayError, match="square"):
        solver([[1.0, 2.0]])


def test_meta_nash_is_a_symmetric_nash_strategy() -> None:
    for payoffs in instances(200, 10, seed=16):
        for game in (payoffs, antisymmetrised(payoffs)):
            weights = meta.nash(game)
            assert (game @ weights).max() - weights @ game @ weights < 1e-8


@pytest.mark.parametrize("solver", [meta.nash, meta.uniform, meta.replicator, meta.alpha_rank])
def test_meta_solvers_do_not_depend_on_the_unit(solver: meta.MetaSolver) -> None:
    game = np.array([[0.0, -0.5, 1.0], [1.0, 0.0, -1.0], [-1.0, 0.25, 0.0]])
    for payoffs in (game, game - game.T):
        found = solver(payoffs)
        for scale in (200.0, 1e6, 1e-9, 1e300):
            assert solver(scale * payoffs) == pytest.approx(found, abs=1e-9)


def test_the_replicators_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forfeit of 1e9 beside rock, paper, scissors is out at once, and the rest does not take longer for it."""
    game = np.zeros((4, 4))
    game[:3, :3], game[3, :3], game[:3, 3] = RPS, -1e9, 1e9
    assert meta.replicator(game) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.02)
    monkeypatch.setattr(dynamics, "EVALUATIONS", 20_000)  # half a minute with those that are allowed
    with pytest.raises(SelfplayError, match="more than 20000 evaluations for a duration of 1000"):
        replicator(1e6 * RPS, duration=1000.0, start=[0.6, 0.3, 0.1])


def test_payoffs_that_overflow_are_refused() -> None:
    for wrong in (lambda: quantal_response(1e308 * RPS, beta=1.0), lambda: replicator(1e308 * RPS, -1e308 * RPS)):
        with pytest.raises(SelfplayError, match="overflows a float; divide them by a constant"):
            wrong()
    with pytest.raises(SelfplayError, match="alpha 100 times a payoff difference of"):
        alpha_rank(8e307 * RPS)


# errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: solve([1.0, 2.0]), "shape"),
        (lambda: solve([[math.nan]]), r"payoffs\[0, 0\] is nan"),
        (lambda: nash_averaging(np.zeros((2, 3))), "square"),
        (lambda: replicator(np.zeros((2, 3))), "square"),
        (lambda: replicator(np.zeros((2, 3)), np.zeros((3, 2))), "column_payoffs"),
        (lambda: replicator(RPS, start=[0.5, 0.5, 0.5]), "start"),
        (lambda: replicator(RPS, duration=0.0), "duration"),
        (lambda: quantal_response(RPS, beta=0.0), "beta"),
        (lambda: quantal_response(RPS, beta=1.0, row_reference=[0.0, 0.5, 0.5]), "reference"),
        (lambda: alpha_rank(RPS, alpha=math.inf), "alpha"),
        (lambda: alpha_rank(RPS, population_size=1), "population_size"),
        (lambda: alpha_rank_profiles([RPS]), "shapes"),
        (lambda: three_cycles(RPS, margin=-1.0), "margin"),
        (lambda: bradley_terry([[0, -1], [1, 0]]), "negative"),
        (lambda: bradley_terry([[0, 1], [1, 0]], prior=-1.0), "prior"),
        (lambda: bradley_terry([[0, 3, 1], [1, 0, 2], [0, 0, 0]]), "ever beat 0, 1,"),
        (lambda: bradley_terry([[0, 3], [0, 0]], names=["ann", "bob"]), "ever beat ann,"),
        (lambda: bradley_terry(np.kron(np.eye(2), [[0, 1], [1, 0]])), "ever beat 0, 1,"),
        (lambda: elo([(0, 0, 1.0)], 2), "game 0"),
        (lambda: elo([], 2, k=0.0), "k is"),
    ],
)
def test_errors_name_the_remedy(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(SelfplayError, match=message):
        wrong()
