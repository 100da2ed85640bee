"""Updates on tables, where gradients can be enumerated and fixed points are known."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from bandit import ASK, PAYS, said, table, updated
from configs import config
from scipy.optimize import brentq
from torch import Tensor

from selfplay.building import build
from selfplay.core import Ask, Batch, Episode, SelfplayError, Turn, user
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate, encode_replies, score_and_pay, turns_of
from selfplay.theory.quantal import quantal_response
from selfplay.theory.strategies import strategy_of
from selfplay.theory.tree import enumerate_game
from selfplay.updates.advantages import centred, leave_one_out
from selfplay.updates.losses import reinforce


def every(policy: Tabular) -> Batch:
    """All arms by their probabilities."""
    return said(policy, range(4), PAYS, policy.probabilities([ASK])[0])


def probabilities(policy: Any) -> Tensor:
    return torch.tensor(policy.probabilities([ASK])[0], dtype=torch.float64)


def learnt(name: str, steps: int, *overrides: str) -> tuple[Tensor, Tensor]:
    """What the policy was and what it becomes, all arms in each step."""
    policy = table()
    update, before = updated(policy, name, *overrides), probabilities(policy)
    for _ in range(steps):
        update.step(every(policy))
    return before, probabilities(policy)


# --- policy gradients -------------------------------------------------------------------------------------------------


def expected(advantage: Any, count: int) -> tuple[Tensor, Tensor]:
    """The expectation of the estimator over all draws of `count` replies, and the gradient of the expected payoff."""
    logits = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pays, logp = torch.tensor(PAYS, dtype=torch.float64), logits.log_softmax(0)
    mean = torch.zeros(4, dtype=torch.float64)
    for places in product(range(4), repeat=count):
        index = torch.tensor(places)
        mask = torch.ones(count, 1, dtype=torch.bool)
        chosen = logp[index][:, None]
        advantages = advantage(pays[index], torch.zeros(count, dtype=torch.int64))
        loss = reinforce(chosen, chosen.detach(), mask, advantages, torch.zeros_like(chosen)).mean()
        [gradient] = torch.autograd.grad(loss, logits, retain_graph=True)
        mean += float(chosen.detach().sum().exp()) * gradient
    [exact] = torch.autograd.grad(-(logp.exp() * pays).sum(), logits)
    return mean, exact


@pytest.mark.parametrize("count", [2, 4])
def test_rloos_expected_gradient_is_exact(count: int) -> None:
    found, exact = expected(leave_one_out, count)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    assert float(exact.abs().max()) > 0.05


def test_a_mean_that_holds_the_turn_shrinks_the_gradient() -> None:
    found, exact = expected(centred, 4)
    torch.testing.assert_close(found, 0.75 * exact, atol=1e-12, rtol=0)


def test_several_epochs_go_on_from_the_sampler() -> None:
    """Two epochs of clipped steps are two steps on one batch, the second with the ratios of the first;
    logprob_mismatch is 0."""
    twice, by_hand = table(), table()
    args = (
        "update.minibatches=1",
        "regularizer=none",
        "update.aggregation._target_=selfplay.updates.aggregations.sequence_sum",
    )
    batch = said(twice, (0, 0, 1, 2), (1.0, 1.0, 0.0, -1.0), None)
    metrics = updated(twice, "ppo", *args, "update.epochs=2").step(batch).metrics
    one = updated(by_hand, "ppo", *args, "update.epochs=1")
    said(by_hand, (0,), (0.0,), None)  # so that it knows the state
    first, second = one.step(batch).metrics, one.step(batch).metrics
    assert torch.equal(twice.logits, by_hand.logits)
    assert metrics["logprob_mismatch"] == first["logprob_mismatch"] < 1e-6
    assert metrics["shift"] == second["logprob_mismatch"] > 0.1
    assert metrics["loss"] == pytest.approx((first["loss"] + second["loss"]) / 2)


def test_minibatches_go_through_the_whole_batch() -> None:
    """With payoffs that are advantages and tiny steps, the mean of two half-batch steps' moves is the whole one's."""
    args = ("regularizer=none", "update.epochs=1", "update.compare=group", "update.optimizer.lr=1e-3")
    moves = []
    for count in (1, 2):
        policy = table()
        before = policy.logits.detach().clone()
        batch = said(policy, (0, 1, 2, 3, 0, 1), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), None)
        torch.manual_seed(0)
        updated(policy, "ppo", *args, f"update.minibatches={count}").step(batch)
        moves.append(policy.logits.detach() - before)
    assert float(moves[0].abs().max()) > 1e-4
    torch.testing.assert_close(moves[1], 2 * moves[0], atol=2e-6, rtol=0)


def test_reinforce_takes_one_step_a_batch() -> None:
    with pytest.raises(SelfplayError, match=r"update\.epochs=2 and update\.minibatches=1 train off-policy"):
        updated(table(), "lsp", "update.epochs=2")


# --- preferences ------------------------------------------------------------------------------------------------------


def test_dpos_optimum_is_the_tilted_reference() -> None:
    """pi_ref exp(r / beta), normalised (2305.18290, equation 4), where a Bradley-Terry judge labels the pairs."""
    beta = 0.8
    labels = "update.pairs._target_=selfplay.updates.pairs.bradley_terry"
    before, after = learnt("dpo", 400, labels, f"update.beta={beta}", "update.compare=group", "update.optimizer.lr=8")
    tilted = before * (torch.tensor(PAYS, dtype=torch.float64) / beta).exp()
    torch.testing.assert_close(after, tilted / tilted.sum(), atol=1e-4, rtol=0)
    assert float((after - before).abs().max()) > 0.2


def test_sppos_optimum_of_two() -> None:
    """The least squares of two log-ratios under sum p = 1, solved for p; eta = 2, payoffs 1 apart."""
    policy = Tabular(states=1, actions=2, spread=0.0, temperature=1.0, seed=0)
    ask = Ask("solver", user("pull"), ("p", "q"))
    update = updated(policy, "sppo", "update.beta=0.5", "update.refresh=0", "update.optimizer.lr=0.2")
    turns = [
        (Episode(i, []), Turn(ask, r, payoff=1.0 - i)) for i, r in enumerate(policy.reply_with([ask, ask], (0, 1)))
    ]
    for _ in range(300):
        metrics = update.step(collate(turns)).metrics
    goal = 2.0 * ((0.5 + float(torch.tensor(1.0).sigmoid())) / 2 - 0.5)

    def slope(p: float) -> float:
        return float((np.log(2 * p) - goal) / p - (np.log(2 * (1 - p)) + goal) / (1 - p))

    assert policy.probabilities([ask])[0][0] == pytest.approx(brentq(slope, 0.5, 0.99), abs=1e-5)
    assert metrics["pairs"] == 1 and metrics["ties"] == 0 and metrics["solver/rewards/accuracies"] == 1


def test_spin_ends_where_the_teacher_is() -> None:
    """Every teacher's reply by its probability against every one of the learner's: the last iterate is the teacher."""
    policy, teacher = table(), torch.tensor([0.4, 0.3, 0.2, 0.1])
    update = updated(policy, "spin", "update.refresh=1", "update.beta=1.0")
    for _ in range(400):
        own = every(policy)
        weights = torch.cat([teacher, own.weights])
        both = Batch(
            own.prompts * 2, own.replies.repeat(2, 1), own.mask.repeat(2, 1), own.logprobs.repeat(2, 1),
            torch.zeros(8), torch.zeros(8, dtype=torch.int64), weights, own.roles * 2, own.choices * 2, False,
            (True,) * 4 + (False,) * 4,
        )  # fmt: skip
        metrics = update.step(both).metrics
    torch.testing.assert_close(probabilities(policy).float(), teacher, atol=1e-3, rtol=0)
    assert metrics["pairs"] == 16 and metrics["solver/kl"] < 1e-6


@pytest.mark.parametrize("name", ["dpo", "sppo", "kto"])
def test_the_previous_iterate_is_refreshed(name: str) -> None:
    policy = table()
    update = updated(policy, name, "update.refresh=2", "update.beta=1.0", "update.compare=group")
    update.step(every(policy))
    assert update.frozen == {}
    update.step(every(policy))
    assert probabilities(update.frozen["magnet"]).tolist() == probabilities(policy).tolist()
    update.step(every(policy))
    assert probabilities(update.frozen["magnet"]).tolist() != probabilities(policy).tolist()


@pytest.mark.parametrize("name", ["dpo", "sppo", "kto"])
def test_micro_batches_are_no_matter_though_pairs_are_split(name: str) -> None:
    """And the step is the gradient of the loss itself, taken in one piece."""
    moved = []
    for size in (1, 3, 100):
        policy = table()
        updated(policy, name, f"update.micro_batch={size}", "update.compare=group").step(every(policy))
        moved.append(policy.logits.detach().clone())
    torch.testing.assert_close(moved[0], moved[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved[1], moved[2], atol=1e-5, rtol=1e-5)
    assert float((moved[2] - table().logits).abs().max()) > 1e-3


def test_a_preference_step_is_the_gradient_in_one_piece() -> None:
    """DPO on three drawn turns, written out: the best (1) over the worst (-1), beta = 0.1, rate 1."""
    policy = table()
    before = policy.logits.detach().clone()
    batch = said(policy, (0, 1, 2), (1.0, 0.0, -1.0), None)
    update = updated(policy, "dpo", "update.compare=group")
    learnt = update.step(batch)
    metrics = learnt.metrics
    logits = before.clone().requires_grad_()
    logp, ref = logits[0].log_softmax(0), before[0].log_softmax(0)
    loss = -torch.nn.functional.logsigmoid(0.1 * ((logp[0] - ref[0]) - (logp[2] - ref[2])))
    loss.backward()
    torch.testing.assert_close(policy.logits.detach(), before - logits.grad, atol=1e-7, rtol=0)
    assert metrics["loss"] == pytest.approx(loss.item())
    assert learnt.advantages is not None and learnt.advantages.tolist() == pytest.approx(
        [0.05, 0.0, -0.05]
    )  # beta (1 - sigmoid(0))


@pytest.mark.parametrize("name", ["dpo", "sppo", "kto", "rejection"])
def test_ties_teach_nothing(name: str) -> None:
    policy = table()
    before = policy.logits.detach().clone()
    batch = said(policy, (0, 1, 2), (2.0, 2.0, 2.0), None)
    metrics = updated(policy, name, "update.compare=group").step(batch).metrics
    assert torch.equal(policy.logits.detach(), before)
    assert (metrics["loss"], metrics["grad_norm"], metrics["logprob_mismatch"]) == (0, 0, 0)
    assert metrics.get("pairs", metrics.get("kept", 0.0)) == 0
    assert metrics.get("ties", 1.0) > 0 and metrics["solver/entropy"] > 0


def test_kto_by_hand() -> None:
    """At the start all ratios and z are 0: losses 1/2; slopes -beta/4 and 3 beta/4 over the two labelled turns."""
    policy = table(spread=0.0)
    batch = said(policy, (0, 1, 2), (1.0, -1.0, 0.0), None)
    update = updated(policy, "kto", "update.compare=group", "update.undesirable=3.0", "update.beta=0.4")
    learnt = update.step(batch)
    metrics = learnt.metrics
    slopes = torch.tensor([-0.1, 0.3, 0.0]) / 2
    gradient = torch.stack([s * (torch.eye(4)[i] - 0.25) for i, s in enumerate(slopes)]).sum(0)
    torch.testing.assert_close(policy.logits.detach()[0], -gradient)
    assert metrics["loss"] == pytest.approx((0.5 + 1.5) / 2) and metrics["ties"] == 1
    assert metrics["solver/kl_baseline"] == 0.0
    assert learnt.advantages is not None  # what a turn is pulled with, before weights
    assert learnt.advantages.tolist() == pytest.approx([0.1, -0.1, 0.0])


def test_ktos_baseline_is_in_the_loss() -> None:
    """The policy has p = 0.7 where the reference has 1/4, and 0.1: z is the mean log-ratio of what was said."""
    policy = table(spread=0.0)
    update = updated(policy, "kto", "update.compare=group", "update.beta=1.0")
    policy.logits.data[0] = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
    metrics = update.step(said(policy, (0, 0, 0, 1), (1.0, 1.0, 1.0, -1.0), None)).metrics
    up, down = np.log(0.7 / 0.25), np.log(0.1 / 0.25)
    z = (3 * up + down) / 4
    assert z > 0.5 and metrics["solver/kl_baseline"] == pytest.approx(z)

    def missed(x: float) -> float:
        return 1 / (1 + float(np.exp(x)))

    assert metrics["loss"] == pytest.approx((3 * missed(up - z) + missed(z - down)) / 4)


# --- somebody else's turns --------------------------------------------------------------------------------------------


def test_a_student_becomes_its_teacher() -> None:
    """Kuhn poker, the first seat a teacher's: supervised learning of all outcomes ends at the teacher's strategy."""
    made = build(
        config(
            "game=kuhn", "player=tabular", "rollout=exact", "update=sft", "update.teachers=[expert]",
            "seats.first=expert",
            "+players.expert={_target_: selfplay.players.tabular.Tabular, states: 12, actions: 2, spread: 1.0, "
            "temperature: 1.0, seed: 7}", "update.optimizer.lr=8",
        )
    )  # fmt: skip
    for step in range(1, 150):
        episodes = made.rollout(made.game, made.opponent, step, 1, "k")
        score_and_pay(made.game, episodes, {}, made.players)
        turns = encode_replies(turns_of(episodes, "learner", *made.update.teachers), "learner", made.learner)
        made.update.step(collate(turns, "learner"))
    tree = enumerate_game(made.game)
    found, right = (
        strategy_of(tree, {"first": player, "second": made.learner})
        for player in (made.learner, made.opponent.players["expert"])
    )
    apart = [
        float(np.abs(a - b).max())
        for role, a, b in zip(tree.owner, found, right, strict=True)
        if tree.roles[role] == "first"
    ]
    assert len(apart) == 6 and max(apart) < 1e-3
    untouched = [p for role, p in zip(tree.owner, found, strict=True) if tree.roles[role] == "second"]
    assert all(p.tolist() == [0.5, 0.5] for p in untouched)


# --- Nash-MD ----------------------------------------------------------------------------------------------------------


def fixed_point(pays: np.ndarray, reference: Sequence[np.ndarray], beta: float, share: float) -> list[np.ndarray]:
    """pi_i in proportion to mu_i exp(payoff against the other's mixture / beta), by damped iteration."""
    policies = [mu.copy() for mu in reference]

    def normal(weights: np.ndarray) -> np.ndarray:
        return weights / weights.sum()

    for _ in range(20_000):
        mixed = [normal(p ** (1 - share) * mu**share) for p, mu in zip(policies, reference, strict=True)]
        goals = [
            normal(reference[0] * np.exp(pays @ mixed[1] / beta)),
            normal(reference[1] * np.exp(-pays.T @ mixed[0] / beta)),
        ]
        policies = [0.95 * p + 0.05 * g for p, g in zip(policies, goals, strict=True)]
    return policies


@pytest.mark.parametrize("share", [0.0, 0.125, 0.5])
def test_the_last_iterate_against_the_mixture_arrives(share: float) -> None:
    """Rock-paper-scissors with an uneven reference: the fixed point of Nash-MD, for no share the quantal response."""
    beta = 0.3
    made = build(
        config(
            "game=matrix", "player=tabular", "player.spread=1", "rollout=exact", "opponent=mixture",
            f"opponent.coefficient={share}", f"regularizer.beta={beta}", "update.optimizer.lr=0.5",
        )
    )  # fmt: skip
    tree = enumerate_game(made.game)
    start = strategy_of(tree, dict.fromkeys(("row", "column"), made.players["reference"]))
    for step in range(1, 500):
        episodes = made.rollout(made.game, made.opponent, step, 1, "k")
        score_and_pay(made.game, episodes, {}, made.players)
        made.update.step(collate(turns_of(episodes, "learner")))
    found = strategy_of(tree, dict.fromkeys(("row", "column"), made.learner))
    rps = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    right = fixed_point(rps, start, beta, share)
    for one, other in zip(found, right, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert max(float(np.abs(a - b).max()) for a, b in zip(found, start, strict=True)) > 0.05
    if share == 0.0:
        quantal = quantal_response(tree, beta, start)
        for one, other in zip(found, quantal.strategy, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_nash_md_weighs_its_own_replies() -> None:
    """The same fixed point in a game of preferences, (reference / policy)^c in the place of a rival who samples."""
    beta, share = 0.1, 0.5
    before, after = learnt(
        "nash_md", 300, f"regularizer.beta={beta}", f"update.mixture={share}", "update.optimizer.lr=8"
    )
    wins = torch.sigmoid(torch.tensor(PAYS)[:, None] - torch.tensor(PAYS)[None]).double()
    pi = before.clone()
    for _ in range(5000):
        mixed = pi ** (1 - share) * before**share
        goal = before * (wins @ (mixed / mixed.sum()) / beta).exp()
        pi = 0.9 * pi + 0.1 * goal / goal.sum()
    torch.testing.assert_close(after, pi, atol=1e-4, rtol=0)
    other = before * (wins @ pi / beta).exp()
    assert float((after - other / other.sum()).abs().max()) > 1e-3  # against itself it would be another
