"""The critic on a table plays by its values, and the player that prefers options in their order."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy import stats

from selfplay.core import Ask, Episode, SelfplayError, Turn, user
from selfplay.players.geometric import Geometric
from selfplay.players.q_table import QTable
from selfplay.rollout import collate

TWO, THREE = Ask("a", user("x"), ("p", "q")), Ask("a", user("y"), ("p", "q", "r"))


def made(atoms: int = 3, **options: float) -> QTable:
    """Q of TWO is (1/2, 0), of THREE (0, 0, -1/2), over the atoms -1, 0, 1."""
    policy = QTable(states=4, actions=3, atoms=atoms, support=(-1.0, 1.0), **options)
    policy.probabilities([TWO, THREE])
    if atoms == 3:
        policy.logits.data[0, 0] = torch.tensor([0.0, 0.0, math.log(4)])
        policy.logits.data[0, 2] = torch.tensor([0.0, 0.0, 9.0])
        policy.logits.data[1, 2] = torch.tensor([math.log(4), 0.0, 0.0])
    return policy


def test_it_plays_the_softmax_of_its_values() -> None:
    """exp(1/2 / T) to 1 at T = 1/2 is e to 1."""
    policy = made(temperature=0.5)
    assert policy.probabilities([TWO])[0] == pytest.approx((math.e / (math.e + 1), 1 / (math.e + 1)))
    share = 1 / (2 + math.exp(-1))
    assert policy.probabilities([THREE])[0] == pytest.approx((share, share, share * math.exp(-1)))
    assert policy.with_temperature(0).probabilities([TWO, THREE]) == [(1, 0), (1, 0, 0)]


def test_the_log_probs_of_acting_are_those_of_learning() -> None:
    policy = made()
    asks = [Ask("a", ask.messages, ask.options, key=f"{i}") for i in range(40) for ask in (TWO, THREE)]
    replies = policy.act(asks)
    batch = collate([(Episode(0, []), Turn(a, r, payoff=0.0)) for a, r in zip(asks, replies, strict=True)])
    torch.testing.assert_close(policy.logprobs(batch).detach(), batch.logprobs)
    assert {reply.text for reply in replies[::2]} == {"p", "q"}
    values = policy.values(batch)
    assert values.shape == (80, 3, 3) and bool(values[0, 2].isneginf().all()), "TWO has no third option"
    assert values[1, 2].exp().tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_at_first_every_value_is_the_middle_of_the_support() -> None:
    for atoms in (1, 51):
        policy = QTable(states=2, actions=2, atoms=atoms, support=(1.0, 4.0))
        assert policy.probabilities([TWO]) == [pytest.approx((0.5, 0.5))]
        assert float(policy._preferences(torch.tensor([0])).detach()[0, 0]) == pytest.approx(2.5)


def test_files(tmp_path: Path) -> None:
    policy, other = made(), QTable(states=8, actions=3, atoms=3, support=(-1.0, 1.0))
    policy.save(tmp_path)
    other.probabilities([THREE])  # its rows have another order
    other.load(tmp_path)
    assert other.probabilities([TWO, THREE]) == policy.probabilities([TWO, THREE])
    with pytest.raises(SelfplayError, match="resume with the player it was made with"):
        made(atoms=5).load(tmp_path)


def test_a_ratio_between_options() -> None:
    player = Geometric(0.25)
    assert player.probabilities([TWO, THREE]) == [pytest.approx((0.8, 0.2)), pytest.approx((16 / 21, 4 / 21, 1 / 21))]
    asks = [Ask("a", THREE.messages, THREE.options, key=f"k/{i}") for i in range(2000)]
    replies = player.act(asks)
    assert replies == player.act(asks)
    counts = Counter(reply.text for reply in replies)
    expected = [2000 * p for p in player.probabilities([THREE])[0]]
    assert stats.chisquare([counts[option] for option in THREE.options], expected).pvalue > 1e-3
    assert Geometric().probabilities([TWO])[0] == (0.5, 0.5)
    with pytest.raises(SelfplayError, match="the role 'a' is asked for free text"):
        player.act([Ask("a", user("z"))])
