"""Who plays whom: seats, draws, tables, populations that grow, exploiters, and what the records say of it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import cli
import numpy as np
import pytest
import torch
from scripted import Script
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import (
    Ask,
    Batch,
    Episode,
    Game,
    Learnt,
    Play,
    Player,
    Policy,
    Reply,
    SelfplayError,
    Turn,
    Update,
    user,
)
from selfplay.games.kuhn import Kuhn
from selfplay.games.matrix import MatrixGame, matrix_game
from selfplay.opponents.league import BASE, League
from selfplay.opponents.matchmaker import Against, Matchmaker, rotated
from selfplay.opponents.rules import meta, prioritised, recent, uniform
from selfplay.opponents.table import Table, earned, pairs, results
from selfplay.players.nature import Nature
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate, play, score_and_pay, turns_of
from selfplay.theory.meta import alpha_rank, nash, replicator
from selfplay.theory.meta import uniform as solve_uniform
from selfplay.trainee import Trainee

RPS = matrix_game()
SEATS = {"row": "learner", "column": "learner"}
NOBODY = Script(lambda ask: Reply(""))


class Push(Update):
    """Each step adds the number of the learner's turns to the first logits, by an optimizer with a memory."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.optimizer = torch.optim.SGD(policy.parameters(), lr=0.1, momentum=0.5)

    def step(self, batch: Batch) -> Learnt:
        [logits] = self.policy.parameters()
        logits.grad = torch.zeros_like(logits)
        logits.grad[:, 0] = -float(len(batch))
        self.optimizer.step()
        return Learnt({})

    @property
    def momentum(self) -> float:
        return sum(float(s["momentum_buffer"].abs().sum()) for s in self.optimizer.state.values())


def table_player(seed: int = 0) -> Tabular:
    return Tabular(states=8, actions=3, spread=1.0, temperature=1.0, seed=seed)


def league(game: Game = RPS, seated: Mapping[str, str] = SEATS, **changes: Any) -> League:
    learner = table_player()
    players = {"learner": learner, "reference": learner.snapshot(), "nature": Nature()}
    options = {
        "rule": uniform, "every": 2, "latest": 0.0, "restart": False, "exploit": 0, "matches": 0, "exact": False,
        "memory": 1.0, "steps": 6, "seed": 0,
    }  # fmt: skip
    made = League(seated, players, game, {}, **{**options, **changes})
    TRAINEES[made] = Trainee(learner, made.base, Push(learner))
    return made


TRAINEES: WeakKeyDictionary[League, Trainee] = WeakKeyDictionary()


def update_of(opponent: League) -> Update:
    return TRAINEES[opponent].update


def begin(opponent: League, number: int) -> None:
    """As `Experiment.before`."""
    TRAINEES[opponent].follow(opponent.before(number), opponent.main)


def end(opponent: League, number: int, episodes: Sequence[Episode]) -> dict[str, Any]:
    """As `Experiment.after`."""
    metrics = opponent.after(number, episodes)
    TRAINEES[opponent].follow(opponent.then(number))
    return metrics


def step(opponent: League, number: int, episodes: int = 4) -> dict[str, Any]:
    """As `run.py` does it."""
    begin(opponent, number)
    played = play(opponent.game, opponent.players, range(episodes), f"k/{number}", opponent.seats(number))
    score_and_pay(opponent.game, played, {}, {})
    update_of(opponent).step(collate(turns_of(played, "learner")))
    return end(opponent, number, played)


def logits(policy: Player) -> Tensor:
    assert isinstance(policy, Tabular)
    return policy.logits.detach().clone()


def push(opponent: League) -> Push:
    update = update_of(opponent)
    assert isinstance(update, Push)
    return update


def drawn(opponent: League, number: int, count: int = 200) -> Counter[str]:
    """Who is met in the episodes of a step."""
    seat = opponent.seats(number)
    return Counter(name for i in range(count) for name in seat(i).values() if name != "learner")


# --- seats ------------------------------------------------------------------------------------------------------------


def test_roles_take_turns() -> None:
    seated = {"a": "learner", "n": "nature", "b": "learner", "c": "learner"}
    who = iter("xyzuvwpq")
    got = [rotated(seated, ("a", "b", "c"), index, lambda role: next(who)) for index in range(4)]
    assert got == [
        {"a": "learner", "n": "nature", "b": "x", "c": "y"},
        {"a": "z", "n": "nature", "b": "learner", "c": "u"},
        {"a": "v", "n": "nature", "b": "w", "c": "learner"},
        {"a": "learner", "n": "nature", "b": "p", "c": "q"},
    ]


def test_the_latest_self_sits_everywhere() -> None:
    learner = table_player()
    seating = Matchmaker({"a": "learner", "n": "nature"}, {"learner": learner, "nature": NOBODY})
    assert [seating.seats(step)(index) for step in (1, 9) for index in (0, 1)] == [seating.seated] * 4
    assert seating.learner_roles == ("a",) and seating.main is learner
    assert (seating.mixture(), seating.state_dict(), seating.after(1, [])) == ({}, {}, {})


def test_against_somebody() -> None:
    against = Against(SEATS, {"learner": table_player(), "x": NOBODY}, "x")
    seats = [against.seats(3)(index) for index in range(3)]
    assert seats == [{"row": "learner", "column": "x"}, {"row": "x", "column": "learner"}, seats[0]]


@pytest.mark.parametrize("name", ["ghost", "learner"])
def test_against_nobody(name: str) -> None:
    with pytest.raises(SelfplayError, match=f"opponent.name is '{name}', but the other players are reference, nature"):
        Against(SEATS, league().players | {BASE: NOBODY}, name)


def test_a_role_to_spare() -> None:
    told = "but the learner has only solver; use opponent=latest, or assign the learner another role in `seats`"
    seated = {"chance": "nature", "solver": "learner"}
    with pytest.raises(SelfplayError, match=told):
        Against(seated, {"learner": NOBODY, "nature": NOBODY}, "nature")
    with pytest.raises(SelfplayError, match=told):
        league(seated=seated)


# --- the table --------------------------------------------------------------------------------------------------------


def table() -> Table:
    """The learner lost 1 of 1 to a, drew and won against b, never met c; a beat b."""
    t = Table(["learner", "a", "b", "c"])
    t.record([("learner", "a", -2.0, 0.0), ("a", "learner", 2.0, 1.0)])
    t.record([("learner", "b", 0.0, 0.5), ("b", "learner", 0.0, 0.5)])
    t.record([("learner", "b", 3.0, 1.0), ("b", "learner", -3.0, 0.0)])
    t.record([("a", "b", 1.0, 1.0), ("b", "a", -1.0, 0.0)])
    return t


def test_the_table_by_hand() -> None:
    t = table()
    assert t.win_rates("learner", ["a", "b", "c"]).tolist() == [0.0, 0.75, 0.5]
    assert t.win_rates("b", ["a", "learner"]).tolist() == [0.0, 0.25]
    assert t.payoffs(["learner", "a", "b", "c"]).tolist() == [[0, -2, 1.5, 0], [2, 0, 1, 0], [-1.5, -1, 0, 0], [0] * 4]
    assert t.payoffs(["b", "a"]).tolist() == [[0, -1], [1, 0]]  # in the order that is asked for
    assert t.games.tolist() == [[0, 1, 2, 0], [1, 0, 1, 0], [2, 1, 0, 0], [0] * 4]


def test_what_fades_counts_less_beside_what_is_new() -> None:
    """Half a game lost beside a game won: 2/3, and (-1 + 4) / 1.5."""
    t = table()
    t.fade("learner", 0.5)
    assert t.payoffs(["learner", "a", "b"])[0].tolist() == [0, -2, 1.5]  # the mean of what is left
    t.record([("learner", "a", 4.0, 1.0)])
    assert t.win_rates("learner", ["a"]).tolist() == [pytest.approx(2 / 3)]
    assert t.payoffs(["learner", "a"])[0, 1] == 2.0
    assert t.payoffs(["a", "b"])[0, 1] == 1.0 and t.games[1, 2] == 1.0  # between others nothing fades
    assert t.games[1, 0] == 0.5
    t.fade("learner", 0.0)
    assert t.win_rates("learner", ["a", "b"]).tolist() == [0.5, 0.5]
    assert t.payoffs(["a", "learner"]).tolist() == [[0, 0], [0, 0]]


def test_a_new_name_has_no_games() -> None:
    t = table()
    t.enter("d")
    assert t.names == ["learner", "a", "b", "c", "d"]
    assert t.win_rates("d", ["a", "learner"]).tolist() == [0.5, 0.5]
    assert t.win_rates("learner", ["b", "d"]).tolist() == [0.75, 0.5]
    t.record([("d", "a", 5.0, 1.0)])
    assert t.payoffs(["a", "d"]).tolist() == [[0, 0], [5, 0]]


def test_a_table_is_remembered() -> None:
    t, other = table(), Table(["learner"])
    state = t.state_dict()
    t.fade("learner", 0.0)
    other.load_state_dict(state)
    assert other.payoffs(other.names).tolist() == table().payoffs(t.names).tolist()
    assert other.win_rates("b", ["learner"]).tolist() == [0.25]
    other.record([("c", "a", 1.0, 1.0)])
    assert state["games"][3, 1] == 0  # type: ignore[index]


def test_results_of_three_players_and_no_zero_sum() -> None:
    """Two of them are the same one, who has not met itself alone; chance is none of them."""
    got = pairs({"a": "x", "b": "y", "c": "y", "chance": "n"}, {"a": 3.0, "b": 3.0, "c": 5.0})
    assert got == [
        ("x", "y", 3.0, 0.5), ("x", "y", 3.0, 0.0), ("y", "x", 3.0, 0.5), ("y", "x", 5.0, 1.0),
    ]  # fmt: skip
    alone = pairs({"a": "y", "b": "y", "c": "y"}, {"a": 1.0, "b": 0.0, "c": -1.0})
    assert [(a, b) for a, b, *_ in alone] == [("y", "y")] * 6
    assert sum(gained for _, _, gained, _ in alone) == 0
    t = Table(["x", "y"])
    t.record(got)
    assert t.payoffs(["x", "y"]).tolist() == [[0, 3], [4, 0]]
    assert t.win_rates("x", ["y"]).tolist() == [0.25]


def test_what_a_role_earned() -> None:
    """Its return, where the game knows; else the mean of its turns."""
    turns = [Turn(Ask(r), Reply(""), {}, p, n) for r, p, n in [("chance", 9.0, "n"), ("a", 1.0, "x"), ("b", 2.0, "y")]]
    turns.append(Turn(Ask("a"), Reply(""), {}, 4.0, "x"))
    assert earned(Episode(0, turns, {"a": -1.0, "b": 1.0})) == {"a": -1.0, "b": 1.0}
    assert earned(Episode(0, turns)) == {"a": 2.5, "b": 2.0}
    seats = {"a": "x", "b": "y", "c": "z"}
    assert results(Episode(0, turns, seats=seats), ("a", "b")) == [("x", "y", 2.5, 1.0), ("y", "x", 2.0, 0.0)]
    assert results(Episode(0, turns, seats=seats), ("a",)) == []


# --- the rules --------------------------------------------------------------------------------------------------------


def test_rules_by_hand() -> None:
    """Win-rates 0, 3/4 and 1/2: what is lost, squared, is 16 : 1 : 4."""
    t, names = table(), ["a", "b", "c"]
    assert uniform(t, names).tolist() == [pytest.approx(1 / 3)] * 3
    assert recent(t, names, 2).tolist() == [0, 0.5, 0.5]
    assert recent(t, names, 9).tolist() == [pytest.approx(1 / 3)] * 3
    assert prioritised(t, names, 2.0).tolist() == pytest.approx([16 / 21, 1 / 21, 4 / 21])
    assert prioritised(t, names, 0.0).tolist() == [pytest.approx(1 / 3)] * 3
    t.record([("learner", "c", 1.0, 1.0)])
    assert prioritised(t, ["c"], 2.0).tolist() == [1.0]  # beaten, but who else is there?
    with pytest.raises(SelfplayError, match="window is 0"):
        recent(t, names, 0)


def test_the_meta_rule_solves_the_populations_game() -> None:
    """Rock, paper, scissors, with scissors beating paper twice as high: the equilibrium is 1/2, 1/4, 1/4."""
    t = Table(["learner", "r", "p", "s"])
    for a, b, stake in (("p", "r", 1.0), ("s", "p", 2.0), ("r", "s", 1.0)):
        t.record([(a, b, stake, 1.0), (b, a, -stake, 0.0)])
    assert meta(t, ["r", "p", "s"], nash).tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert meta(t, ["p", "s"], nash).tolist() == pytest.approx([0.0, 1.0])
    assert meta(t, ["s", "p"], lambda payoffs: payoffs[0]).tolist() == [0, 2]


# --- who is drawn -----------------------------------------------------------------------------------------------------


def grown(**changes: Any) -> League:
    """A league after six steps: the base and three snapshots."""
    opponent = league(**changes)
    for number in range(1, 7):
        step(opponent, number)
    return opponent


def test_uniform_and_recent_draw_from_their_own() -> None:
    assert list(grown().population) == [BASE, "step-000002", "step-000004", "step-000006"]
    counts = drawn(grown(), 7, 2000)
    assert set(counts) == set(grown().population)
    assert max(abs(n - 500) for n in counts.values()) < 4 * math.sqrt(2000 * 0.25 * 0.75)
    newest = drawn(grown(rule=partial(recent, window=2)), 7, 2000)
    assert set(newest) == {"step-000004", "step-000006"}
    assert abs(newest["step-000004"] - 1000) < 4 * math.sqrt(500)


def test_draws_follow_the_rules_weights() -> None:
    seen: list[list[str]] = []

    def rule(table: Table, names: Sequence[str]) -> np.ndarray:
        seen.append(list(names))
        return np.eye(len(names))[1] * 0.75 + np.eye(len(names))[0] * 0.25 if len(names) > 1 else np.ones(1)

    opponent = grown(rule=rule)
    counts = drawn(opponent, 7, 2000)
    assert set(counts) == {BASE, "step-000002"}
    assert abs(counts[BASE] - 500) < 4 * math.sqrt(2000 * 0.25 * 0.75)
    assert seen[-1] == list(opponent.population)
    assert opponent.mixture() == {BASE: 0.25, "step-000002": 0.75, "step-000004": 0.0, "step-000006": 0.0}


def test_prioritised_draws_who_beats_the_learner() -> None:
    opponent = grown(rule=partial(prioritised, power=1.0))
    names = list(opponent.population)
    opponent.table.load_state_dict(Table(["learner", *names]).state_dict())
    opponent.table.record([("learner", name, 1.0, float(name != names[2])) for name in names])
    assert set(drawn(opponent, 7)) == {names[2]}


@pytest.mark.parametrize(("latest", "least", "most"), [(0.0, 0, 0), (0.25, 180, 320), (1.0, 1000, 1000)])
def test_the_share_against_the_latest_self(latest: float, least: int, most: int) -> None:
    seat = grown(latest=latest).seats(7)
    seats = [seat(i) for i in range(1000)]
    assert least <= sum(s == SEATS for s in seats) <= most
    assert all(s == SEATS or s["row" if i % 2 == 0 else "column"] == "learner" for i, s in enumerate(seats))
    assert all(list(s.values()).count("learner") in (1, 2) for s in seats)


def test_draws_are_a_function_of_seed_step_and_index() -> None:
    def seats(opponent: League, number: int, indices: Iterable[int]) -> list[Mapping[str, str]]:
        seat = opponent.seats(number)
        return [seat(i) for i in indices]

    opponent = grown(latest=0.3)
    first = seats(opponent, 7, range(60))
    assert seats(grown(latest=0.3), 7, range(60)) == first
    assert seats(opponent, 7, [41, 3, 12]) == [first[i] for i in (41, 3, 12)]
    assert seats(opponent, 8, range(60)) != first
    opponent.seed = 1
    assert seats(opponent, 7, range(60)) != first


# --- growth -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_joins_every_few_steps() -> None:
    opponent = league(every=2)
    learnt: list[Tensor] = []
    for number in range(1, 6):
        out = step(opponent, number)
        assert out["opponent/population"] == 1 + number // 2
        learnt.append(logits(opponent.learner))
    assert list(opponent.population) == [BASE, "step-000002", "step-000004"]
    assert opponent.population[BASE] is opponent.players["reference"]
    for number in (2, 4):
        name = f"step-{number:06d}"
        assert torch.equal(logits(opponent.population[name]), learnt[number - 1])
        assert opponent.players[name] is opponent.population[name]
    assert not torch.equal(learnt[1], learnt[2])  # and it goes on from where it is
    assert opponent.main is opponent.learner


def test_a_restart_forgets() -> None:
    """After a snapshot the learner is the base, its optimizer as new, and its results do not count."""
    opponent = league(restart=True)
    base = logits(opponent.learner)
    step(opponent, 1)
    assert push(opponent).momentum > 0
    step(opponent, 2)
    first = logits(opponent.population["step-000002"])
    assert opponent.table.games[0].sum() == 8
    begin(opponent, 3)
    assert torch.equal(logits(opponent.learner), base)
    assert push(opponent).momentum == 0
    assert opponent.table.games[0].sum() == 0
    begin(opponent, 4)
    step(opponent, 3)
    step(opponent, 4)
    assert torch.equal(logits(opponent.population["step-000004"]), first)  # the same luck, if nothing was kept
    assert not torch.equal(first, base)


def test_without_a_restart_the_momentum_stays() -> None:
    opponent = league(restart=False)
    for number in (1, 2):
        step(opponent, number)
    kept = logits(opponent.learner), push(opponent).momentum
    begin(opponent, 3)
    assert torch.equal(logits(opponent.learner), kept[0]) and push(opponent).momentum == kept[1] > 0


# --- exploiters -------------------------------------------------------------------------------------------------------


def test_an_exploiter_and_the_main_learner_take_turns() -> None:
    """One step out, two steps main, and so on. Main stands still meanwhile, and comes back with its momentum."""
    opponent = league(exploit=1, every=2, steps=6)
    base, names = logits(opponent.learner), []
    for number in range(1, 7):
        before, moment = logits(opponent.main), push(opponent).momentum
        begin(opponent, number)
        out = number in (1, 4)
        assert torch.equal(logits(opponent.main), before)
        assert (opponent.main is opponent.learner) == (not out)
        if out:
            assert torch.equal(logits(opponent.learner), base) and push(opponent).momentum == 0
            newest = BASE if number == 1 else "step-000003"
            assert set(drawn(opponent, number)) == {newest}
            assert opponent.table.games[0].sum() == 0
        played = play(RPS, opponent.players, range(4), f"k/{number}", opponent.seats(number))
        score_and_pay(RPS, played, {}, {})
        update_of(opponent).step(collate(turns_of(played, "learner")))
        changed = logits(opponent.learner)
        end(opponent, number, played)
        if out:
            name = f"exploiter-{number:06d}"
            assert torch.equal(logits(opponent.population[name]), changed) and not torch.equal(changed, base)
            assert torch.equal(logits(opponent.learner), before) and push(opponent).momentum == moment
            assert opponent.table.games[0].sum() == 0
            names.append(name)
        elif number % 3 == 0:
            names.append(f"step-{number:06d}")
        assert opponent.main is opponent.learner
        assert list(opponent.population) == [BASE, *names]
    assert names == ["exploiter-000001", "step-000003", "exploiter-000004", "step-000006"]
    assert set(drawn(opponent, 8)) == {BASE, *names}


def test_main_learns_as_if_no_exploiter_had_been() -> None:
    """Against the base alone, whose games depend on nothing but the step's key."""
    alone, league_ = league(rule=first_alone, every=2, steps=4), league(rule=first_alone, every=2, exploit=1, steps=6)
    for main, number in zip((1, 2, 3, 4), (2, 3, 5, 6), strict=True):
        step(alone, main)
        if number in (2, 5):
            step(league_, number - 1)
        step(league_, number)
        torch.testing.assert_close(logits(league_.learner), logits(alone.learner))


def first_alone(table: Table, names: Sequence[str]) -> np.ndarray:
    return np.eye(len(names))[0]


@pytest.mark.parametrize("steps", [1, 2, 6, 7])
def test_a_run_does_not_end_while_an_exploiter_learns(steps: int) -> None:
    told = rf"steps={steps} ends while an exploiter is training; make it a multiple of 5 \(opponent.every \+"
    with pytest.raises(SelfplayError, match=told):
        league(exploit=2, every=3, steps=steps)


@pytest.mark.parametrize("steps", [3, 4, 5, 8, 10])
def test_a_run_may_end_while_main_learns(steps: int) -> None:
    assert list(league(exploit=2, every=3, steps=steps).population) == [BASE]


# --- measuring --------------------------------------------------------------------------------------------------------


def measured(**changes: Any) -> np.ndarray:
    opponent = league(game=changes.pop("game", RPS), **changes)
    for number in range(1, 5):
        opponent.learner.logits.data[:, number % 3] += 2.0  # type: ignore[attr-defined]
        end(opponent, number, [])
    return opponent.table.payoffs(list(opponent.population))


def test_exact_and_played_tables_agree() -> None:
    """A return of rock, paper, scissors is within 1 of its mean: 4 standard errors of 2000 games are 0.09."""
    exact, played = measured(exact=True), measured(matches=2000)
    assert exact.shape == played.shape == (3, 3)
    np.testing.assert_allclose(exact, -exact.T, atol=1e-12)
    np.testing.assert_allclose(played, -played.T, atol=1e-12)
    assert 0 < np.abs(exact - played).max() < 0.09
    assert np.abs(exact).max() > 0.2


def test_the_exact_table_by_hand() -> None:
    """Whoever always plays rock against whoever always plays paper: -1 in either role."""
    opponent = league(exact=True)
    for number, action in ((2, 0), (4, 1)):
        opponent.learner.logits.data[:] = 200.0 * torch.eye(3)[action]  # type: ignore[attr-defined]
        end(opponent, number, [])
    payoffs = opponent.table.payoffs(["step-000002", "step-000004"])
    np.testing.assert_allclose(payoffs, [[0, -1], [1, 0]], atol=1e-12)
    assert opponent.table.games[2:, 2:].tolist() == [[4, 2], [2, 4]]  # a role each; against itself both count twice


def test_a_general_sum_table_is_not_antisymmetric() -> None:
    """Chicken: who swerves earns -1 of who goes straight, and that one 1; both straight -10 each."""
    opponent = league(game=matrix_game("chicken", forfeit=20.0), exact=True)
    for number, action in ((2, 0), (4, 1)):
        opponent.learner.logits.data[:, :2] = 200.0 * torch.eye(2)[action]  # type: ignore[attr-defined]
        end(opponent, number, [])
    payoffs = opponent.table.payoffs(["step-000002", "step-000004"])
    np.testing.assert_allclose(payoffs, [[0, -1], [1, -10]], atol=1e-12)


def test_unequal_roles_are_averaged() -> None:
    """The row earns 3 whatever happens, the column -3: it is 0 for whoever takes the roles in turns."""
    payoffs = measured(game=MatrixGame("g", [[3.0, 3.0]] * 2), matches=2)
    np.testing.assert_allclose(payoffs, np.zeros((3, 3)), atol=1e-12)


class Third(Game):
    """Two of the learner's roles and a third one that is always somebody else's, and is paid, too."""

    roles = ("a", "b", "judge")

    def play(self) -> Play:
        yield [Ask(role, user(role), ("x", "y")) for role in self.roles]
        return {"a": 1.0, "b": -1.0, "judge": 5.0}


@pytest.mark.parametrize("matches", [0, 2])
def test_who_is_not_of_the_population_is_not_in_its_table(matches: int) -> None:
    seated = {"a": "learner", "b": "learner", "judge": "nature"}
    opponent = league(game=Third(), seated=seated, matches=matches, every=2)
    outs = [step(opponent, number) for number in (1, 2)]
    assert opponent.table.names == ["learner", BASE, "step-000002"]
    assert set(outs[0]["opponents"]) == {BASE}
    assert opponent.table.payoffs(["learner", BASE]).tolist() == [[0, 0], [0, 0]]


class Three(Game):
    """Three roles name a number; who names the largest alone takes 1 from each of the others."""

    roles = ("a", "b", "c")
    zero_sum = True

    def play(self) -> Play:
        replies = yield [Ask(role, user(role), ("0", "1", "2")) for role in self.roles]
        said = [reply.text for reply in replies]
        top = [i for i, text in enumerate(said) if text == max(said)]
        return {r: (2.0 if [i] == top else -1.0) if len(top) == 1 else 0.0 for i, r in enumerate(self.roles)}


@pytest.mark.parametrize("how", [{"exact": True}, {"matches": 30}], ids=["exact", "played"])
def test_self_play_for_three_is_nobody_elses_affair(how: dict[str, Any]) -> None:
    """In a zero-sum game whoever is in all roles earns 0, whatever happens at tables where somebody else sits, too."""
    opponent = league(game=Three(), seated=dict.fromkeys(Three.roles, "learner"), rule=uniform, **how)
    for number in range(1, 5):
        opponent.learner.logits.data[:, number % 3] += 2.0  # type: ignore[attr-defined]
        end(opponent, number, [])
    payoffs = opponent.table.payoffs(list(opponent.population))
    np.testing.assert_allclose(np.diag(payoffs), 0, atol=1e-12)
    assert np.abs(payoffs).max() > 0.1


def test_a_table_of_pairs_is_no_game_of_three() -> None:
    seated = dict.fromkeys(Three.roles, "learner")
    for solver in (nash, partial(alpha_rank, alpha=10.0), replicator):
        with pytest.raises(SelfplayError, match=r"has 3 roles.*use meta_solver=uniform, or opponent=pfsp"):
            league(game=Three(), seated=seated, rule=partial(meta, solver=solver))
    assert league(game=Three(), seated=seated, rule=partial(meta, solver=solve_uniform)).mixture() == {BASE: 1.0}


# --- what is learnt and logged ----------------------------------------------------------------------------------------


def test_the_learners_results_reach_the_table() -> None:
    """A game that the row always wins by 3: of four games the learner is in the row twice."""
    opponent = league(game=MatrixGame("g", [[3.0, 3.0]] * 2), memory=0.5)
    out = step(opponent, 1, episodes=5)
    assert out["opponents"] == {BASE: {"games": 5, "return": 3 / 5}}
    assert opponent.table.win_rates("learner", [BASE]).tolist() == [3 / 5]
    step(opponent, 2, episodes=4)
    assert opponent.table.games[0, 1] == opponent.table.games[1, 0] == 0.5 * 5 + 4
    assert opponent.table.payoffs(["learner", BASE])[0, 1] == pytest.approx(0.5 * 3 / 6.5)


def test_games_against_oneself_are_no_result() -> None:
    opponent = league(latest=1.0)
    assert step(opponent, 1)["opponents"] == {}
    assert opponent.table.games.sum() == 0


def test_only_the_learners_turns_reach_the_update() -> None:
    opponent = league()
    sizes: list[int] = []
    learn = update_of(opponent).step
    update_of(opponent).step = lambda batch: sizes.append(len(batch)) or learn(batch)  # type: ignore[method-assign,func-returns-value]
    step(opponent, 1, episodes=5)
    opponent.latest = 1.0
    step(opponent, 2, episodes=5)
    assert sizes == [5, 10]


def test_a_run_tells_who_played(tmp_path: Path) -> None:
    args = ("game=kuhn", "player=tabular", "opponent=uniform", "opponent.every=1", "episodes=8", "steps=3")
    folder = cli.finished(tmp_path / "run", *args)
    turns = cli.lines(folder / "episodes.jsonl")
    players = {turn["player"] for turn in turns if turn["role"] != "chance"}
    assert players == {"learner", BASE, "step-000001", "step-000002"}
    for turn in turns:
        assert (turn["advantage"] is None) == (turn["player"] != "learner")
        assert (turn["player"] == "nature") == (turn["role"] == "chance")
        if turn["role"] != "chance":
            mine = ("first", "second")[turn["episode"] % 2]
            assert (turn["player"] == "learner") == (turn["role"] == mine)
    for line in cli.metrics(folder)[1:]:
        met = [t for t in turns if t["step"] == line["step"] and t["player"] not in ("learner", "nature")]
        episodes = {(t["episode"], t["player"]) for t in met}
        assert {n: o["games"] for n, o in line["opponents"].items()} == Counter(name for _, name in episodes)
        assert line["opponent/population"] == 1 + line["step"]
        roles = [next(t for t in turns if t["step"] == line["step"] and t["episode"] == i and t["player"] == "learner")
                 for i in range(8)]  # fmt: skip
        means = {n: [r["payoff"] for i, r in enumerate(roles) if (i, n) in episodes] for n in line["opponents"]}
        assert {n: o["return"] for n, o in line["opponents"].items()} == {
            n: pytest.approx(sum(p) / len(p)) for n, p in means.items()
        }
    assert sorted(path.name for path in (folder / "population").iterdir()) == [f"step-{i:06d}" for i in (1, 2, 3)]


def test_evaluations_see_main_and_not_its_exploiter(tmp_path: Path) -> None:
    """Nobody but the exploiter learns in steps 1 and 4: the distance to equilibrium stays where it was."""
    args = ("game=kuhn", "player=tabular", "opponent=league", "opponent.every=2", "opponent.exploit=1", "eval.every=1")
    folder = cli.finished(tmp_path / "run", *args, "episodes=16", "steps=6")
    found = [line["eval"]["nash_conv"] for line in cli.metrics(folder)]
    assert found[0] == pytest.approx(11 / 12) and len(found) == 7
    assert [a == b for a, b in pairwise(found)] == [True, False, False, True, False, False]


ERRORS = {
    ("game=dataset", "opponent=uniform"): "the learner has only solver; use opponent=latest",
    ("game=dataset", "opponent=reference"): "the learner has only solver; use opponent=latest",
    ("opponent=reference", "opponent.name=ghost"): "opponent.name is 'ghost', but the other players are reference",
    ("opponent=uniform", "opponent.latest=1.5"): "opponent.latest is 1.5, but it must be a number, at most 1",
    ("opponent=uniform", "opponent.memory=-0.1"): "opponent.memory is -0.1, but it must be a number, at least 0",
    ("opponent=uniform", "opponent.every=0"): "opponent.every is 0",
    ("opponent=uniform", "opponent.matches=-1"): "opponent.matches is -1",
    ("opponent=league", "opponent.every=2", "opponent.exploit=2"): "steps=1 ends while an exploiter is training",
    ("opponent=recent", "opponent.rule.window=0"): "window is 0",
}


@pytest.mark.parametrize("args", ERRORS, ids=" ".join)
def test_what_is_no_opponent(args: tuple[str, ...], tmp_path: Path) -> None:
    game = () if args[0].startswith("game=") else ("game=kuhn", "player=tabular")
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *game, *args, "eval=none", "steps=1", "episodes=2")
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1
    assert ERRORS[args] in ended.err


def test_a_policy_of_nobody() -> None:
    """The parameters of a frozen member are nobody's to change."""
    opponent = grown()
    assert all(list(member.parameters()) == [] for member in opponent.population.values())
    assert [type(p) for p in opponent.learner.parameters()] == [Parameter]


def test_a_game_that_ends_before_all_were_asked_reaches_the_table() -> None:
    """The first player forfeits at once, so the second is never asked; it has won all the same."""
    game = Kuhn(forfeit=2.0)
    players = {"nature": Nature(), "a": Script(lambda ask: Reply("?")), "b": Script(lambda ask: Reply("pass"))}
    seats = {"chance": "nature", "first": "a", "second": "b"}
    [episode] = play(game, players, [0], "k", lambda index: seats)
    assert {turn.ask.role for turn in episode.turns} == {"chance", "first"}
    assert results(episode, ("first", "second")) == [("a", "b", -2.0, 0.0), ("b", "a", 2.0, 1.0)]


def test_means_stay_when_games_have_faded_to_nothing() -> None:
    table = Table(["a", "b"])
    table.record([("a", "b", 3.0, 1.0)] * 4)
    for _ in range(200):
        table.fade("a", 0.5)
    assert table.win_rates("a", ["b"]).tolist() == [1.0] and table.payoffs(["a", "b"])[0, 1] == 3.0


def test_a_restart_and_an_exploiter_do_not_go_together() -> None:
    ended = cli.run("game=kuhn", "player=tabular", "opponent=league", "opponent.restart=true", "steps=30")
    assert ended.code == 1 and "opponent.restart is true and opponent.exploit is 10" in ended.err
