"""Small games solved exactly: against values from the literature, against OpenSpiel, and against arithmetic by hand."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import brentq

from selfplay.core import Ask, Game, Play, Player, Reply, SelfplayError, user
from selfplay.theory.exploitability import best_response, counterfactual_values, nash_conv
from selfplay.theory.quantal import quantal_response
from selfplay.theory.strategies import Strategy, average, expected_returns, reach, strategy_of, uniform
from selfplay.theory.tree import Tree, enumerate_game


class Kuhn(Game):
    """Three cards, one each; pass or bet (Kuhn 1950). Who is asked sees the own card and what was said."""

    roles = ("first", "second")
    zero_sum = True

    def play(self) -> Play:
        [mine] = yield [Ask("chance", user("deal"), ("J", "Q", "K"))]
        [yours] = yield [Ask("chance", user("deal"), tuple(c for c in "JQK" if c != mine.text))]
        cards, said = mine.text + yours.text, ""
        while said not in ("pp", "pbp", "pbb", "bp", "bb"):
            seat = len(said) % 2
            [reply] = yield [Ask(self.roles[seat], user(cards[seat] + said), ("p", "b"))]
            said += reply.text
        if said.endswith("bp"):
            won = 1.0 if said == "bp" else -1.0
        else:
            won = (2.0 if said.endswith("bb") else 1.0) * (1 if "JQK".index(cards[0]) > "JQK".index(cards[1]) else -1)
        return {"first": won, "second": -won}


class Matrix(Game):
    """Everybody chooses at once, in one wave; nobody sees what the others chose."""

    def __init__(self, *tables: Sequence[object]) -> None:
        self.tables = [np.array(table, dtype=float) for table in tables]
        self.roles = tuple("abc"[: len(tables)])

    def play(self) -> Play:
        sizes = self.tables[0].shape
        replies = yield [
            Ask(r, user("choose"), tuple(map(str, range(n)))) for r, n in zip(self.roles, sizes, strict=True)
        ]
        cell = tuple(int(reply.text) for reply in replies)
        return {role: float(table[cell]) for role, table in zip(self.roles, self.tables, strict=True)}


class Script(Game):
    """A game written as one generator function."""

    roles = ("a", "b")

    def __init__(self, script: object) -> None:
        self.play = script  # type: ignore[method-assign, assignment]

    def play(self) -> Play:
        raise NotImplementedError


ROCK = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
KUHN = enumerate_game(Kuhn())


def random_strategy(tree: Tree, rng: np.random.Generator) -> Strategy:
    return tuple(rng.dirichlet(np.ones(len(state.ask.options))) for state in tree.states)


def kuhn_equilibrium(alpha: float) -> Strategy:
    bets = {"J": alpha, "Q": 0, "K": 3 * alpha, "Jpb": 0, "Qpb": alpha + 1 / 3, "Kpb": 1}
    bets |= {"Jp": 1 / 3, "Qp": 0, "Kp": 1, "Jb": 0, "Qb": 1 / 3, "Kb": 1}
    return tuple(np.array([1 - bets[s.ask.prompt], bets[s.ask.prompt]]) for s in KUHN.states)


# --- The tree ---------------------------------------------------------------------------------------------------------


def test_kuhn_has_the_states_and_histories_of_the_literature() -> None:
    assert len(KUHN.states) == 12 and len(KUHN.ends) == 30 and KUHN.zero_sum and KUHN.roles == ("first", "second")
    assert len(KUHN) == 1 + 3 + 6 * 9  # the root, the first card, then nine histories a deal
    assert [s.ask.prompt for s in KUHN.states[:4]] == ["J", "Qp", "Jpb", "Qb"]


def test_chance_goes_by_its_weights_and_leaves_out_what_cannot_be() -> None:
    def script() -> Play:
        [x, y] = yield [Ask("chance", (), ("1", "2", "9"), (3.0, 1.0, 0.0)), Ask("a", (), ("4", "8"))]
        return {"a": float(x.text) * float(y.text), "b": 0.0}

    tree = enumerate_game(Script(script))
    assert len(tree.ends) == 4 and not tree.zero_sum and len(tree.states) == 1
    assert expected_returns(tree, uniform(tree)) == {"a": 6 * 1.25, "b": 0.0}


def test_a_game_without_decisions_is_a_lottery() -> None:
    def script() -> Play:
        [x] = yield [Ask("chance", (), ("0", "1"), (1.0, 3.0))]
        yield []
        return {"a": float(x.text), "b": 5.0}

    tree = enumerate_game(Script(script))
    assert expected_returns(tree, ()) == {"a": 0.75, "b": 5.0}
    assert nash_conv(tree, ()).value == 0 and quantal_response(tree, 1.0).strategy == ()


def fails(script: object, *words: str, limit: int = 1000) -> None:
    with pytest.raises(SelfplayError) as error:
        enumerate_game(Script(script), limit)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_cannot_be_enumerated_says_why() -> None:
    def free() -> Play:
        yield [Ask("a", user("say it"))]
        return {"a": 0.0, "b": 0.0}

    def judged() -> Play:
        yield [Ask("a", (), ("0",))]
        return None

    def unpaid() -> Play:
        yield [Ask("a", (), ("0",))]
        return {"a": 1.0}

    def stranger() -> Play:
        yield [Ask("z", (), ("0",))]
        return {"a": 1.0, "b": 1.0}

    def endless() -> Play:
        while True:
            yield [Ask("a", (), ("0",))]

    def changing() -> Play:
        [x] = yield [Ask("chance", (), ("1", "2"))]
        yield [Ask("a", user("same"), ("0", "1")[: int(x.text)])]
        return {"a": 1.0, "b": 1.0}

    times = itertools.count()

    def impure() -> Play:
        yield [Ask("a", user(str(next(times))), ("0", "1"))]
        return {"a": 1.0, "b": 1.0}

    fails(free, "'a'", "free text", "say it")
    fails(judged, "Script", "no payoffs")
    fails(unpaid, "Script", "{'a': 1.0}")
    fails(stranger, "'z'")
    fails(endless, "Script", "1000 nodes")
    fails(changing, "'a'", "same", "('0',)", "('0', '1')")
    fails(impure, "asked differently")
    assert len(enumerate_game(Kuhn(), limit=58)) == 58
    with pytest.raises(SelfplayError, match="Kuhn has more than 57 nodes"):
        enumerate_game(Kuhn(), limit=57)


def test_who_forgets_has_returns_but_no_best_response() -> None:
    def script() -> Play:
        [x] = yield [Ask("a", user("one"), ("0", "1"))]
        [y] = yield [Ask("a", user("two"), ("0", "1"))]
        return {"a": float(x.text == y.text), "b": 0.0}

    tree = enumerate_game(Script(script))
    half = uniform(tree)
    assert expected_returns(tree, half)["a"] == 0.5
    assert best_response(tree, half, "b").value == 0
    for ask in (
        lambda: best_response(tree, half, "a"),
        lambda: nash_conv(tree, half),
        lambda: average(tree, [half], [1.0]),
        lambda: counterfactual_values(tree, half),
        lambda: reach(tree, half),
        lambda: quantal_response(tree, 1.0),
    ):
        with pytest.raises(SelfplayError, match=r"'a' of Script has imperfect recall at 'two'"):
            ask()


def test_one_role_twice_in_a_wave_forgets_what_it_says_there() -> None:
    def script() -> Play:
        x, y = yield [Ask("a", user("one"), ("0", "1")), Ask("a", user("one"), ("0", "1"))]
        return {"a": float(x.text != y.text), "b": 0.0}

    tree = enumerate_game(Script(script))
    assert len(tree.states) == 1 and expected_returns(tree, uniform(tree))["a"] == 0.5
    with pytest.raises(SelfplayError, match="imperfect recall"):
        nash_conv(tree, uniform(tree))


# --- Strategies -------------------------------------------------------------------------------------------------------


class Better(Player):
    """Bets as often as it is told."""

    def __init__(self, bet: float) -> None:
        self.bet, self.calls = bet, 0

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        raise NotImplementedError

    def probabilities(self, asks: Sequence[Ask]) -> list[tuple[float, ...]]:
        self.calls += 1
        return [(1 - self.bet, self.bet) for _ in asks]


def test_players_are_asked_once_each() -> None:
    one, two = Better(0.25), Better(1.0)
    strategy = strategy_of(KUHN, {"first": one, "second": two})
    assert all(p[1] == (0.25 if s.role == "first" else 1.0) for s, p in zip(KUHN.states, strategy, strict=True))
    strategy_of(KUHN, {"first": one, "second": one})
    assert one.calls == 2 and two.calls == 1
    with pytest.raises(SelfplayError, match="'second' of Kuhn has no player"):
        strategy_of(KUHN, {"first": one})
    with pytest.raises(SelfplayError, match=r"\[-1.0, 2.0\] over the 2 options"):
        strategy_of(KUHN, {"first": one, "second": Better(2.0)})


@pytest.mark.parametrize("wrong", [(), uniform(KUHN)[1:], (np.ones(3) / 3, *uniform(KUHN)[1:])])
def test_what_is_no_strategy_is_refused(wrong: Strategy) -> None:
    with pytest.raises(SelfplayError, match="Kuhn"):
        expected_returns(KUHN, wrong)


def test_an_average_does_what_drawing_a_strategy_does() -> None:
    rng = np.random.default_rng(0)
    strategies, weights = [random_strategy(KUHN, rng) for _ in range(3)], [0.5, 2.0, 1.5]
    shares = np.array(weights) / 4
    mixed = 0.0
    for (i, mine), (j, yours) in itertools.product(enumerate(strategies), repeat=2):
        both = tuple(m if s.role == "first" else y for s, m, y in zip(KUHN.states, mine, yours, strict=True))
        mixed += shares[i] * shares[j] * expected_returns(KUHN, both)["first"]
    assert expected_returns(KUHN, average(KUHN, strategies, weights))["first"] == pytest.approx(mixed, abs=1e-12)
    plain = tuple(sum(w * p for w, p in zip(shares, ps, strict=True)) for ps in zip(*strategies, strict=True))
    assert abs(expected_returns(KUHN, plain)["first"] - mixed) > 1e-3


def test_an_average_is_plain_where_nobody_comes() -> None:
    bets = tuple(np.array([0.0, 1.0]) for _ in KUHN.states)
    other = tuple(
        np.array([1.0, 0.0]) if s.ask.prompt.endswith("pb") else p for s, p in zip(KUHN.states, bets, strict=True)
    )
    mean = dict(zip((s.ask.prompt for s in KUHN.states), average(KUHN, [bets, other], [3, 1]), strict=True))
    assert mean["Jpb"].tolist() == [0.25, 0.75] and mean["Jp"].tolist() == [0.0, 1.0]
    for wrong in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(SelfplayError, match="weights"):
            average(KUHN, [bets, other], wrong)


def test_reach_and_counterfactual_values_by_hand() -> None:
    bets = tuple(np.array([0.75, 0.25]) for _ in KUHN.states)
    found, values = reach(KUHN, bets), counterfactual_values(KUHN, bets)
    at = {s.ask.prompt: i for i, s in enumerate(KUHN.states)}
    assert found.own[at["Jpb"]] == pytest.approx(0.75) and found.others[at["Jpb"]] == pytest.approx(1 / 3 * 0.25)
    assert found.own[at["Kb"]] == 1 and found.others[at["Kb"]] == pytest.approx(1 / 3 * 0.25)
    assert values[at["Kb"]] == pytest.approx(np.array([-1, 2]) / 12)
    assert values[at["K"]] == pytest.approx(np.array([0.75 + 0.25 * (0.75 * -1 + 0.25 * 2), 0.75 + 0.25 * 2]) / 3)


def test_own_reach_is_the_product_of_all_that_the_role_did() -> None:
    def script() -> Play:
        said = ""
        while len(said) < 3:
            [reply] = yield [Ask("a", user("said " + said), ("0", "1"))]
            said += reply.text
        return {"a": float(said.count("1")), "b": 0.0}

    tree = enumerate_game(Script(script))
    often = tuple(np.array([0.8, 0.2]) for _ in tree.states)
    own = dict(zip((s.ask.prompt for s in tree.states), reach(tree, often).own, strict=True))
    assert own["said "] == 1 and own["said 01"] == pytest.approx(0.16) and own["said 11"] == pytest.approx(0.04)
    assert best_response(tree, often, "a").value == 3 and expected_returns(tree, often)["a"] == pytest.approx(0.6)


# --- Best responses ---------------------------------------------------------------------------------------------------


def test_kuhn_uniform_has_nash_conv_eleven_twelfths() -> None:
    found = nash_conv(KUHN, uniform(KUHN))
    assert found.value == pytest.approx(11 / 12, abs=1e-12)
    for role in KUHN.roles:
        best = best_response(KUHN, uniform(KUHN), role)
        assert best.value - found.returns[role] == pytest.approx(found.gains[role], abs=1e-12)
        assert expected_returns(KUHN, best.strategy)[role] == pytest.approx(best.value, abs=1e-12)
        kept = [p for s, p in zip(KUHN.states, best.strategy, strict=True) if s.role != role]
        assert all((p == 0.5).all() for p in kept)


@pytest.mark.parametrize("alpha", [0, 1 / 6, 1 / 3])
def test_kuhn_equilibria_cannot_be_exploited(alpha: float) -> None:
    found = nash_conv(KUHN, kuhn_equilibrium(alpha))
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.returns["first"] == pytest.approx(-1 / 18, abs=1e-12)


def test_a_best_response_is_the_best_of_all_pure_strategies() -> None:
    strategy = random_strategy(KUHN, np.random.default_rng(3))
    mine = [i for i, s in enumerate(KUHN.states) if s.role == "second"]
    best = -np.inf
    for bits in itertools.product((0, 1), repeat=len(mine)):
        pure = list(strategy)
        for i, bit in zip(mine, bits, strict=True):
            pure[i] = np.eye(2)[bit]
        best = max(best, expected_returns(KUHN, tuple(pure))["second"])
    assert best_response(KUHN, strategy, "second").value == pytest.approx(best, abs=1e-12)
    with pytest.raises(SelfplayError, match="no role 'third'"):
        best_response(KUHN, strategy, "third")


def test_rock_paper_scissors_hides_what_the_other_chooses_now() -> None:
    tree = enumerate_game(Matrix(ROCK, -ROCK))
    rock = np.array([1.0, 0, 0])
    assert len(tree.states) == 2 and nash_conv(tree, uniform(tree)).value == pytest.approx(0, abs=1e-12)
    assert nash_conv(tree, (rock, rock)).value == 2
    assert best_response(tree, (rock, rock), "a").strategy[0].tolist() == [0, 1, 0]
    assert best_response(tree, uniform(tree), "a").strategy[0].tolist() == [1, 0, 0]  # all alike: the first


def test_the_prisoners_dilemma_has_one_equilibrium() -> None:
    tree = enumerate_game(Matrix([[3, 0], [5, 1]], [[3, 5], [0, 1]]))
    trust, betray = np.array([1.0, 0]), np.array([0, 1.0])
    assert not tree.zero_sum and nash_conv(tree, (betray, betray)).value == 0
    assert nash_conv(tree, (trust, trust)).gains == {"a": 2, "b": 2}
    assert nash_conv(tree, (trust, betray)).gains == {"a": 1, "b": 0}


def test_three_roles_against_the_plain_sum_over_cells() -> None:
    rng = np.random.default_rng(5)
    tables = [rng.normal(size=(2, 3, 4)) for _ in "abc"]
    tree = enumerate_game(Matrix(*tables))
    p, q, r = strategy = random_strategy(tree, rng)
    found = nash_conv(tree, strategy)
    answers = ("xyz,y,z->x", q, r), ("xyz,x,z->y", p, r), ("xyz,x,y->z", p, q)
    for role, table, own, (path, one, two) in zip("abc", tables, strategy, answers, strict=True):
        each = np.einsum(path, table, one, two)
        assert found.returns[role] == pytest.approx(each @ own, abs=1e-12)
        assert found.gains[role] == pytest.approx(each.max() - each @ own, abs=1e-12)
    assert found.value == pytest.approx(sum(found.gains.values()))


def test_kuhn_agrees_with_openspiel() -> None:
    pyspiel = pytest.importorskip("pyspiel")
    from open_spiel.python.algorithms import expected_game_score, exploitability
    from open_spiel.python.policy import TabularPolicy

    game, rng = pyspiel.load_game("kuhn_poker"), np.random.default_rng(1)
    theirs = TabularPolicy(game)
    for _ in range(50):
        strategy = random_strategy(KUHN, rng)
        for state, p in zip(KUHN.states, strategy, strict=True):
            theirs.policy_for_key(str("JQK".index(state.ask.prompt[0])) + state.ask.prompt[1:])[:] = p
        ours = nash_conv(KUHN, strategy)
        value = expected_game_score.policy_value(game.new_initial_state(), [theirs, theirs])
        assert list(ours.returns.values()) == pytest.approx(list(value), abs=1e-9)
        assert ours.value == pytest.approx(exploitability.nash_conv(game, theirs), abs=1e-9)


# --- Quantal responses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_asymmetric_matching_pennies_solves_the_logit_equations(beta: float) -> None:
    wins = np.array([[4.0, 0], [0, 1]])
    tree = enumerate_game(Matrix(wins, 1 - np.eye(2)))

    def other(p: float) -> float:  # b's first option, when a's has probability p: it is paid 1 - p, else p
        return 1 / (1 + np.exp(-((1 - p) - p) / beta))

    def gap(p: float) -> float:  # a is paid 4 q for the first, 1 - q for the second
        return p - 1 / (1 + np.exp(-(5 * other(p) - 1) / beta))

    p = brentq(gap, 0, 1, xtol=1e-14)
    found = quantal_response(tree, beta)
    assert found.strategy[0][0] == pytest.approx(p, abs=1e-8)
    assert found.strategy[1][0] == pytest.approx(other(p), abs=1e-8) and found.residual <= 1e-10


@pytest.mark.parametrize("beta", [0.05, 0.3])
def test_kuhn_quantal_response_is_a_fixed_point(beta: float) -> None:
    rng = np.random.default_rng(2)
    reference = random_strategy(KUHN, rng)
    found = quantal_response(KUHN, beta, reference).strategy
    values, others = counterfactual_values(KUHN, found), reach(KUHN, found).others
    for p, prior, q, weight in zip(found, reference, values, others, strict=True):
        wanted = prior * np.exp(q / weight / beta)
        assert p == pytest.approx(wanted / wanted.sum(), abs=1e-8)


def test_quantal_response_goes_from_the_reference_to_equilibrium() -> None:
    reference = tuple(np.array([1.0, 0.0]) if s.role == "second" else np.array([0.3, 0.7]) for s in KUHN.states)
    far = quantal_response(KUHN, 1e4, reference).strategy
    assert all(p == pytest.approx(r, abs=1e-3) for p, r in zip(far, reference, strict=True))
    convs = [nash_conv(KUHN, quantal_response(KUHN, beta).strategy).value for beta in (1.0, 0.3, 0.1, 0.03)]
    assert convs == sorted(convs, reverse=True) and convs[-1] < 0.05


def test_later_penalties_are_not_part_of_the_values() -> None:
    def script() -> Play:
        [x] = yield [Ask("a", user("go"), ("out", "in"))]
        if x.text == "in":
            yield [Ask("a", user("in"), tuple("12345678"))]
        return {"a": 0.0, "b": 0.0}

    tree = enumerate_game(Script(script))
    assert quantal_response(tree, 1.0).strategy[0].tolist() == [0.5, 0.5]  # with the later entropy: 1/9 and 8/9


def test_quantal_response_says_when_it_did_not_get_there() -> None:
    tree = enumerate_game(Matrix(ROCK, -ROCK))
    tilted = (np.array([0.6, 0.2, 0.2]), np.array([0.2, 0.6, 0.2]))
    with pytest.raises(SelfplayError, match=r"residual of .* after 4 evaluations"):
        quantal_response(tree, 0.01, tilted, iterations=3)
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(SelfplayError, match="beta"):
            quantal_response(tree, beta)
