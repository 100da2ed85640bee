"""Values from logged play: the projection and the losses by hand, the order of turns, exact best responses."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from bandit import ASK, table
from configs import config
from torch import Tensor

from selfplay.building import build, make
from selfplay.core import Ask, Batch, Episode, SelfplayError, Turn, user
from selfplay.experiment import Experiment
from selfplay.players.q_table import QTable
from selfplay.records import ELSEWHERE, ENDS
from selfplay.rollout import collate, encode_replies, score_and_pay, turns_of
from selfplay.theory.tree import enumerate_game
from selfplay.updates.categorical import expected, projected
from selfplay.updates.conservative import ConservativeQ
from selfplay.updates.stages import Stages
from selfplay.updates.transitions import transitions

SGD = partial(torch.optim.SGD, lr=1.0)
FREE = float("inf")


def critic(atoms: int = 5, support: Sequence[float] = (-2.0, 2.0), **options: Any) -> QTable:
    return QTable(states=8, actions=3, atoms=atoms, support=support, **options)


def rule(policy: QTable, **options: Any) -> ConservativeQ:
    given: dict[str, Any] = {"optimizer": SGD, "alpha": 0.0, "max_grad_norm": FREE, **options}
    return ConservativeQ(policy, policy.snapshot(), None, **given)


def played(policy: QTable, *moves: tuple[str, str, int, float], weight: float = 1.0, index: int = 0) -> list[Any]:
    """An episode's turns: (role, what it sees, option, payoff)."""
    episode = Episode(index, [], weight=weight, sampled=False)
    for role, seen, option, payoff in moves:
        ask = Ask(role, user(seen), ("p", "q"))
        episode.turns.append(Turn(ask, policy.encode_reply(ask, ask.options[option]), payoff=payoff, player="logged"))
    return [(episode, turn) for turn in episode.turns]


def collated(*episodes: list[Any]) -> Batch:
    return collate([pair for episode in episodes for pair in episode], "learner")


def q_of(policy: QTable, batch: Batch) -> Tensor:
    return expected(policy.values(batch), policy.support).detach()


# --- the order of turns -----------------------------------------------------------------------------------------------


def two_episodes(policy: QTable) -> Batch:
    """a b a b a, then a b."""
    long = [("a", "1", 0, 5.0), ("b", "1", 0, 1.0), ("a", "2", 1, 3.0), ("b", "2", 0, 1.0), ("a", "3", 0, 1.0)]
    return collated(played(policy, *long), played(policy, ("a", "1", 0, 5.0), ("b", "1", 1, 0.0), index=1))


def test_a_turn_is_followed_by_the_next_one_of_its_role() -> None:
    batch = two_episodes(critic())
    assert batch.follows is not None and batch.follows.tolist() == [2, 3, 4, ENDS, ENDS, ENDS, ENDS]


def test_the_order_survives_joining_and_selection() -> None:
    batch = two_episodes(critic())
    both = Batch.joined([batch, batch])
    assert both.follows is not None and both.follows.tolist()[7:] == [9, 10, 11, ENDS, ENDS, ENDS, ENDS]
    some = both.rows(torch.tensor([11, 9, 8]))
    assert some.follows is not None and some.follows.tolist() == [ENDS, 0, ELSEWHERE]
    assert Batch.joined([batch, replace(batch, follows=None)]).follows is None
    assert both.rows(torch.tensor([], dtype=torch.int64)).follows.tolist() == []  # type: ignore[union-attr]


def test_alternatives_do_not_follow_one_another() -> None:
    policy = critic()
    asks = [replace(ASK, options=("p", "q"), group=0)] * 3
    turns = [Turn(ask, policy.encode_reply(ask, "p"), payoff=1.0, player="x") for ask in asks]
    episode = Episode(0, turns)
    assert collate([(episode, turn) for turn in turns], "learner").follows.tolist() == [ENDS] * 3  # type: ignore[union-attr]


def test_rewards_are_the_differences_of_payoffs_and_equal_transitions_are_one() -> None:
    """The role a is paid 5, 3, 1 from its turns on, so 2, 2, 1 at them; b is paid 1 at the end."""
    policy = critic()
    batch = two_episodes(policy)
    found = transitions(batch)
    assert found.rewards.tolist() == [2.0, 0.0, 2.0, 1.0, 1.0, 5.0, 0.0] and found.rows.tolist() == list(range(7))
    seen = [int(prompt) for prompt in found.states.prompts]
    assert [seen[place] if place >= 0 else None for place in found.places.tolist()] == [
        int(batch.prompts[row]) if row >= 0 else None
        for row in batch.follows.tolist()  # type: ignore[union-attr]
    ]
    twice = transitions(Batch.joined([batch, replace(batch, weights=2 * batch.weights)]))
    assert twice.turns.weights.tolist() == [3.0] * 7 and twice.rows.tolist() == [*range(7)] * 2
    assert twice.rewards.tolist() == found.rewards.tolist() and len(twice.states) == len(found.states) == 3


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_the_projection() -> None:
    """Outcomes -1, 0, 1 with 0.2, 0.3, 0.5: halved and raised by a half they are 0, 1/2, 1."""
    support, p = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([[0.2, 0.3, 0.5]] * 4)
    found = projected(p, torch.tensor([0.5, 0.25, 3.0, -1.0]), torch.tensor([0.5, 0.0, 1.0, 1.0]), support)
    wanted = [[0.0, 0.35, 0.65], [0.0, 0.75, 0.25], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_the_mean_of_a_distribution_is_projected_onto_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    support, p = torch.linspace(-3, 4, 9), torch.rand(20, 9, generator=generator).softmax(-1)
    rewards = torch.rand(20, generator=generator)
    found = projected(p, rewards, torch.full((20,), 0.5), support)
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    torch.testing.assert_close(found @ support, rewards + 0.5 * (p @ support))


def test_the_loss() -> None:
    """One state, atoms -1 and 1: q with p = (1/4, 3/4) has Q = 1/2, the other option Q = 0; the return was 1.

    Cross-entropy -log 3/4 = log 4/3; conservative term log(e^(1/2) + 1) - 1/2.
    """
    policy = critic(2, (-1.0, 1.0))
    batch = collated(played(policy, ("a", "1", 1, 1.0)))
    policy.logits.data[0, 1] = torch.tensor([0.0, math.log(3)])
    learnt = rule(policy, alpha=2.0).step(batch)
    term = math.log(math.exp(0.5) + 1) - 0.5
    assert learnt.metrics["loss"] == pytest.approx(math.log(4 / 3) + 2 * term, abs=1e-6)
    assert learnt.advantages is not None and learnt.advantages.tolist() == pytest.approx(
        [1 - float(q_of(policy, batch)[0, 1])]
    )
    q = q_of(policy, batch)[0, :2]
    assert learnt.metrics["a/gap"] == pytest.approx(float(q.logsumexp(0) - q[1]))


def test_plain_values() -> None:
    """Two options with returns 1 and -1, equally often: Q = (x, -x) solves x - 1 + alpha (sigma(2x) - 1/2) = 0."""
    alpha = 0.5 / (1 / (1 + math.exp(-1)) - 0.5)  # x = 1/2
    policy = critic(1, (-2.0, 2.0))
    batch = collated(played(policy, ("a", "1", 0, 1.0)), played(policy, ("a", "1", 1, -1.0), index=1))
    rule(policy, alpha=alpha, optimizer=partial(torch.optim.SGD, lr=0.2), fits=200).step(batch)
    assert q_of(policy, batch)[0].tolist() == pytest.approx([0.5, -0.5, -FREE], abs=1e-4)


def test_the_conservative_term_alone_imitates() -> None:
    """With a large alpha, softmax(Q) is how often each option was taken: 3 times of 4."""
    policy = critic(1)
    batch = collated(*(played(policy, ("a", "1", int(i == 3), 0.0), index=i) for i in range(4)))
    rule(policy, alpha=1e4, optimizer=partial(torch.optim.SGD, lr=1e-4), fits=400).step(batch)
    assert policy.probabilities([Ask("a", user("1"), ("p", "q"))])[0] == pytest.approx((0.75, 0.25), abs=1e-3)


def test_the_target_is_a_copy_of_some_steps_ago() -> None:
    """After q the state 2 follows; a step changes its value, but the target only at the next copy."""
    policy = critic(1)
    batch = collated(played(policy, ("a", "1", 1, 2.0), ("a", "2", 0, 2.0)))
    learner = rule(policy, target_every=2, optimizer=partial(torch.optim.SGD, lr=0.5))
    found = []
    for _ in range(3):
        learner.step(batch)
        found.append([float(q_of(policy, batch)[0, 1]), float(q_of(policy, batch)[1, 0])])
    assert found == [pytest.approx(x) for x in ([0.0, 1.0], [0.0, 1.5], [0.75, 1.75])]
    assert list(learner.frozen) == ["target"] and learner.fitted == 3
    learner.load_state_dict({**learner.state_dict(), "fitted": 0})
    assert learner.frozen == {}, "a restarted rule begins with a new target"


def test_merged_and_micro_batched_is_the_plain_gradient() -> None:
    """Three episodes of different weight, two of them alike: one step of gradient descent on the weighted mean."""
    policy, plain = critic(), critic()
    won, lost = [("a", "1", 1, 2.0), ("a", "2", 0, 2.0)], [("a", "1", 0, -1.0)]
    made = [
        collated(*(played(p, *moves, weight=float(w), index=w) for w, moves in enumerate((won, won, lost), 1)))
        for p in (policy, plain)
    ]
    rule(policy, alpha=0.3, micro_batch=1).step(made[0])
    batch, support = made[1], plain.support
    values = plain.values(batch)
    q = expected(values, support)
    rows, options = torch.arange(5), batch.replies[:, 0]
    target = torch.zeros(5, 5)
    target[[0, 2], :] = 0.2  # Q is 0 everywhere, so the first option's uniform distribution follows
    target[[1, 3], 4] = 1.0
    target[4, 1] = 1.0
    losses = -(target * values[rows, options]).sum(1) + 0.3 * (q.logsumexp(1) - q[rows, options])
    ((batch.weights / batch.weights.sum()) * losses).sum().backward()
    assert plain.logits.grad is not None
    torch.testing.assert_close(policy.logits.data, -plain.logits.grad)
    assert float(policy.logits.detach().abs().max()) > 0.01


def test_the_buffer_s_turns_are_learnt_as_one_batch() -> None:
    policy, bare = critic(), critic()
    made = {p: [two_episodes(p), collated(played(p, ("a", "1", 1, 2.0)))] for p in (policy, bare)}
    options: dict[str, Any] = {"optimizer": SGD, "alpha": 0.1, "max_grad_norm": FREE}
    policy.support = bare.support = critic(support=(-5.0, 5.0)).support
    parts = {"cql": partial(ConservativeQ, **options)}
    stages = Stages(policy, policy.snapshot(), None, parts, hoard=2, room=2, fits=3)
    for batch in made[policy]:
        stages.step(batch)
    rule(bare, alpha=0.1, fits=3).step(Batch.joined(made[bare]))
    assert torch.equal(policy.logits, bare.logits) and float(bare.logits.detach().abs().max()) > 0.01


# --- exact ------------------------------------------------------------------------------------------------------------


def offline(game: str, *more: str) -> Experiment:
    """A critic that learns from a fixed behaviour in all roles."""
    roles = {"kuhn": ("first", "second"), "iterated_dilemma": ("row", "column")}[game]
    seats = ["seats.first=null", "seats.second=null", *(f"++seats.{role}=behaviour" for role in roles)]
    return build(config("experiment=scaled_ql", f"game={game}", *seats, "player.actions=2", *more))


def learn(made: Experiment, episodes: int = 1) -> Batch:
    played = made.play(1, episodes, "0/1")
    score_and_pay(made.game, played, made.referees, made.players)
    turns = turns_of(played, "learner", *made.update.teachers)
    batch = collate(encode_replies(turns, "learner", made.learner), "learner")
    made.update.step(batch)
    return batch


def test_kuhn_from_all_outcomes() -> None:
    """Uniform play pays 1/8 and -1/8, the best responses to it 1/2 and 5/12."""
    made = offline("kuhn", "rollout=exact", "update.alpha=0", "update.fits=300")
    learnt = learn(made)
    found = made.evaluation(made)
    assert found["own"] == pytest.approx({"first": 1 / 8, "second": -1 / 8})
    assert found["returns"] == pytest.approx({"first": 1 / 2, "second": 5 / 12}, abs=1e-3)
    assert found["best"] == pytest.approx({"first": 1 / 2, "second": 5 / 12})
    assert found["share"] == pytest.approx(1.0) and found["return"] == pytest.approx(11 / 24)
    policy = made.learner
    assert isinstance(policy, QTable)
    first = torch.tensor([row for row, state in enumerate(policy.index) if state[0] == "first" and "none" in state[1]])
    q = expected(policy._values(first), policy.support)
    assert float(q.detach().max(-1).values.mean()) == pytest.approx(1 / 2, abs=1e-3), "the mean over the three cards"
    assert len(learnt) == 6 * 12 and len(first) == 3


def test_the_dilemma_from_all_outcomes() -> None:
    """Five rounds against uniform play: 2.25 a round by playing uniformly, 3 by defecting."""
    made = offline("iterated_dilemma", "rollout=exact", "update.alpha=0", "player.atoms=11", "update.fits=80")
    batch = learn(made)
    found = made.evaluation(made)
    assert found["own"] == pytest.approx({"row": 2.25, "column": 2.25})
    assert found["returns"] == pytest.approx({"row": 3.0, "column": 3.0}, abs=1e-3)
    q = q_of(made.learner, batch.rows(torch.tensor([0])))  # type: ignore[arg-type]
    assert float(q.max()) == pytest.approx(3.0, abs=1e-3)


def test_with_few_episodes_alpha_stays_nearer_to_the_behaviour() -> None:
    """The mean log-probability of the logged options under softmax(Q) rises with alpha."""
    likely = []
    for alpha in (0, 0.1, 1):
        made = offline("kuhn", f"update.alpha={alpha}", "players.behaviour.ratio=0.25")
        batch = learn(made, episodes=30)
        likely.append(float(made.learner.logprobs(batch).detach().mean()))
    assert likely == sorted(likely) and likely[2] > likely[0] + 0.05


# --- refusals ---------------------------------------------------------------------------------------------------------


def cut(batch: Batch) -> Batch:
    return batch.rows(torch.tensor([0]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cut, "the next turn of a role is not in the batch"),
        (lambda batch: replace(batch, follows=None), "the order of the turns is unknown"),
        (lambda batch: replace(batch, payoffs=batch.payoffs + 2), r"'a' was paid 7, outside player.support=\[-5,5\]"),
        (
            lambda batch: replace(batch, mask=batch.mask.repeat(1, 2), replies=batch.replies.repeat(1, 2)),
            "a reply of the role 'a' is a text of several tokens",
        ),
    ],
)
def test_what_is_refused_in_a_step(change: Any, sentence: str) -> None:
    policy = critic(support=(-5.0, 5.0))
    with pytest.raises(SelfplayError, match=sentence):
        rule(policy).step(change(two_episodes(policy)))


def test_what_is_refused_before() -> None:
    with pytest.raises(SelfplayError, match=r"the learner \(Tabular\) has none; use player=q_table"):
        ConservativeQ(table(), table(), None)
    with pytest.raises(SelfplayError, match=r"player\.support is not set, and the game does not state the bounds"):
        QTable()
    with pytest.raises(SelfplayError, match=r"player.support is \[1.0, 1.0\]; give two numbers"):
        critic(support=(1.0, 1.0))
    with pytest.raises(SelfplayError, match=r"player\.support is not set"):
        build(config("game=blotto", "player=q_table", "eval=none"))


def test_the_support_is_that_of_the_game() -> None:
    for game, bounds in {"kuhn": (-2.0, 2.0), "iterated_dilemma": (0.0, 5.0)}.items():
        policy = build(config(f"game={game}", "player=q_table", "eval=none")).learner
        assert isinstance(policy, QTable) and (float(policy.support[0]), float(policy.support[-1])) == bounds
    given = build(config("game=kuhn", "player=q_table", "player.support=[-3,4]", "eval=none")).learner
    assert isinstance(given, QTable) and len(given.support) == 51 and float(given.support[-1]) == 4


@pytest.mark.parametrize("options", [["kuhn"], ["iterated_dilemma", "game.rounds=1"], ["matrix"], ["openspiel"]])
def test_the_bounds_of_a_game_hold_all_returns(options: list[str]) -> None:
    """In these games they are the lowest and the highest return."""
    name, *more = options
    more = ["game.name=kuhn_poker"] if name == "openspiel" else more
    game = make(config(f"game={name}", *more).game, "game")
    returns = enumerate_game(game, 1000).returns
    assert game.bounds == (returns.min(), returns.max())
