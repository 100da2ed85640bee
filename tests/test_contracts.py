"""What a part of a run gives or is given against its contract: told in one sentence, not by a traceback."""

import math
from collections.abc import Sequence
from functools import partial

import cli
import numpy as np
import pytest
import torch
from configs import config
from scripted import Fixed

from selfplay.building import make
from selfplay.core import Ask, Episode, Game, Play, Referee, Reply, SelfplayError, Turn
from selfplay.games.openspiel import OpenSpiel
from selfplay.partials import check_partials
from selfplay.referees.ensemble import WeightedSum
from selfplay.rollout import score_and_pay
from selfplay.updates.losses import clipped

SWAP = "update.objective._target_=selfplay.updates.losses"


class Pays(Game):
    """Pays what it was told to."""

    roles = judged = ("a",)

    def __init__(self, paid: object) -> None:
        self.paid = paid

    def play(self) -> Play:
        yield [Ask("a")]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return self.paid  # type: ignore[return-value]


class Gives(Referee):
    """Gives what it was told to."""

    def __init__(self, scores: object) -> None:
        self.scores = scores

    def score(self, turns: Sequence[Turn], players: object) -> torch.Tensor:
        return self.scores  # type: ignore[return-value]


def settled(paid: object, scores: object) -> Turn:
    episode = Episode(0, [Turn(Ask("a"), Reply("x"))])
    score_and_pay(Pays(paid), [episode], {"reward": Gives(scores)}, {})
    return episode.turns[0]


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([1.0], "a list instead of a tensor"),
        (np.array([1.0]), "a ndarray instead of a tensor"),
        (1.0, "a float instead of a tensor"),
        (None, "a NoneType instead of a tensor"),
        (torch.tensor([[1.0]]), r"scores of shape \(1, 1\)"),
        (torch.tensor([math.nan]), "1 scores like nan"),
    ],
)
def test_what_a_referee_must_not_give(scores: object, told: str) -> None:
    with pytest.raises(SelfplayError, match=rf"the referee 'reward' \(Gives\) gave {told} for 1 turns"):
        settled([1.0], scores)
    total = WeightedSum({"one": Gives(scores), "other": Fixed([1.0])}, {"one": 1.0, "other": 1.0})
    with pytest.raises(SelfplayError, match=r"the part 'one' \(Gives\) of an ensemble did not return a finite score"):
        total.score([Turn(Ask("a"), Reply("x"))], {})


@pytest.mark.parametrize("paid", [None, 1.0, ["1"], [None], [math.inf], [1e39], [1.0, 2.0]])
def test_what_a_game_must_not_pay(paid: object) -> None:
    with pytest.raises(SelfplayError, match=r"Pays.payoffs gave .* for the 1 turns of episode 0"):
        settled(paid, torch.tensor([1.0]))


def test_what_they_may_give() -> None:
    for paid in ([1], np.array([1.0]), (torch.tensor(1.0),)):
        turn = settled(paid, torch.tensor([True]))
        assert turn.payoff == 1.0 and turn.scores == {"reward": 1.0}


def test_options_that_are_merged_into_another_function() -> None:
    """GRPO's objective has `low` and `high`; whoever swaps it for one that has not keeps them."""
    cfg = config("update=grpo", "update.objective._target_=selfplay.updates.losses.reinforce")
    told = r"update.objective is selfplay.updates.losses.reinforce, which has no option 'low' \(given: 0.2\)"
    with pytest.raises(SelfplayError, match=rf"{told}; remove it with ~update.objective.low"):
        check_partials(cfg["update"], "update")
    kept = config("update=lsp", f"{SWAP}.clipped", "+update.objective.low=0.2")
    check_partials(kept["update"], "update")
    made = make({"_target_": "selfplay.updates.losses.clipped", "_partial_": True, "low": 0.1}, "objective")
    assert isinstance(made, partial) and made.func is clipped


def test_they_are_told_at_the_start() -> None:
    ended = cli.run("update=grpo", "update.objective._target_=selfplay.updates.losses.reinforce", "steps=1")
    assert ended.code == 1 and ended.err.count("\n") == 1
    assert "has no option 'low'" in ended.err and "remove it with ~update.objective.low" in ended.err


def test_an_openspiel_game_without_numbered_actions() -> None:
    with pytest.raises(SelfplayError, match=r"game.name is 'crossword', whose actions are structures without indices"):
        OpenSpiel("crossword", None)
