"""Every outcome, weighed: what infinitely many drawn episodes would show and teach."""

from collections import Counter
from pathlib import Path

import cli
import pytest
import torch
from configs import config

from selfplay.building import build
from selfplay.core import Episode, SelfplayError
from selfplay.enumeration import exact, sampled
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate, score_and_pay, turns_of
from selfplay.theory.strategies import expected_returns, strategy_of
from selfplay.theory.tree import enumerate_game
from selfplay.updates.advantages import centred, group_std, standardised

KUHN = ("game=kuhn", "player=tabular", "player.spread=1")


def returns(episodes: list[Episode], role: str) -> float:
    total = sum(e.weight for e in episodes)
    return sum(e.weight * e.returns[role] for e in episodes if e.returns) / total


def test_kuhn_has_thirty_outcomes_and_their_mean_is_the_trees() -> None:
    made = build(config(*KUHN))
    episodes = exact(made.game, made.opponent, 1, 7, "k", 100)
    assert len(episodes) == 30
    assert sum(e.weight for e in episodes) == pytest.approx(7)
    tree = enumerate_game(made.game)
    expected = expected_returns(tree, strategy_of(tree, dict.fromkeys(("first", "second"), made.learner)))
    for role in ("first", "second"):
        assert returns(episodes, role) == pytest.approx(expected[role], abs=1e-6)


def gradient(*args: str, episodes: int, step: int = 1) -> torch.Tensor:
    """What one step of plain gradient descent at rate 1 moves."""
    made = build(config(*KUHN, "update.optimizer.lr=1", f"episodes={episodes}", *args))
    exact(
        made.game, made.opponent, 1, 1, "", 100
    )  # so that a state has the same row, and the same initial logits, always
    before = made.learner.logits.detach().clone()  # type: ignore[attr-defined]
    found = made.rollout(made.game, made.opponent, step, episodes, f"0/{step}")
    score_and_pay(made.game, found, {}, made.players)
    made.update.step(collate(turns_of(found, "learner")))
    moved: torch.Tensor = made.learner.logits.detach() - before  # type: ignore[attr-defined]
    states = dict(made.learner.index)  # type: ignore[attr-defined]
    return torch.stack([moved[states[s], :2] for s in sorted(states)])


@pytest.mark.parametrize(
    "rule",
    [
        (),
        ("update.compare=group",),
        ("regularizer=kl_reverse_payoff",),
        ("update=spiral",),
        ("update=grpo", "update.compare=group"),
        ("opponent=reference",),
    ],
)
def test_drawn_gradients_go_to_the_one_of_all_outcomes(rule: tuple[str, ...]) -> None:
    exact = gradient("rollout=exact", *rule, episodes=32)
    few, many = (torch.dist(gradient(*rule, episodes=n), exact).item() for n in (100, 10_000))
    assert many < 0.25 * few and many < 0.1 * float(exact.norm())


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("update=grpo",),
        ("opponent=reference",),
        ("opponent=uniform", "opponent.latest=0.5"),
        ("opponent=uniform", "opponent.latest=1"),
    ],
)
def test_the_number_of_episodes_changes_nothing(args: tuple[str, ...]) -> None:
    one, *others = (gradient("rollout=exact", *args, episodes=n) for n in (1, 30, 50))
    for other in others:
        torch.testing.assert_close(other, one)
    assert float(one.norm()) > 0


def test_three_players_meet_each_combination_of_members() -> None:
    args = ("game=openspiel", 'game.name="kuhn_poker(players=3)"', "+seats.player_2=learner", "player=tabular")
    made = build(config(*args, "opponent=uniform", "opponent.every=1"))
    made.opponent.after(1, [])
    shares = [(tuple(s[f"player_{i}"] for i in range(3)), w) for s, w in made.opponent.enumerate_seatings(2)]
    assert len({names for names, _ in shares}) == len(shares) == 3 * 2 * 2
    assert all(names.count("learner") == 1 for names, _ in shares)
    assert [w for _, w in shares] == pytest.approx([1 / 12] * 12)
    against = build(config(*args, "opponent=reference")).opponent.enumerate_seatings(1)
    assert [(list(s.values()).count("learner"), w) for s, w in against] == [(1, pytest.approx(1 / 3))] * 3


def test_a_league_is_met_by_its_weights() -> None:
    made = build(config(*KUHN, "opponent=uniform", "opponent.every=1", "opponent.latest=0.25"))
    made.opponent.after(1, [])
    shares = {tuple(sorted(s.items())): w for s, w in made.opponent.enumerate_seatings(2)}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert len(shares) == 5  # itself; two members, in two seats each
    alone = tuple(sorted({"chance": "nature", "first": "learner", "second": "learner"}.items()))
    assert shares[alone] == 0.25
    assert sorted(shares.values()) == pytest.approx([0.1875] * 4 + [0.25])
    seat = made.opponent.seats(2)
    drawn = Counter(tuple(sorted(seat(index).items())) for index in range(4000))
    assert set(drawn) == set(shares)
    assert all(abs(drawn[seats] / 4000 - share) < 0.03 for seats, share in shares.items())


def test_a_language_model_s_outcomes(learner: LanguageModel) -> None:
    made = build(config("game=kuhn", "player=tiny", "player.temperature=10"))
    episodes = exact(made.game, made.opponent, 1, 3, "k", 100)
    assert len(episodes) == 30
    batch = collate(turns_of(episodes, "learner"))
    with torch.no_grad():
        assert float((made.learner.logprobs(batch) - batch.logprobs).abs().max()) < 1e-4
    tree = enumerate_game(made.game)
    expected = expected_returns(tree, strategy_of(tree, dict.fromkeys(("first", "second"), made.learner)))
    assert returns(episodes, "first") == pytest.approx(expected["first"], abs=1e-5)


def test_drawn_is_play() -> None:
    made = build(config(*KUHN))
    episodes = sampled(made.game, made.opponent, 1, 5, "k")
    assert [e.index for e in episodes] == [0, 1, 2, 3, 4] and all(e.weight == 1 for e in episodes)


def test_weighed_groups_by_hand() -> None:
    paid, groups, weights = torch.tensor([0.0, 4.0, 5.0]), torch.tensor([0, 0, 1]), torch.tensor([3.0, 1.0, 0.5])
    assert centred(paid, groups, weights=weights).tolist() == [-1.0, 3.0, 0.0]
    assert group_std(paid, groups, weights).tolist() == pytest.approx([3**0.5, 3**0.5, 0.0])
    assert standardised(paid, groups, weights=weights)[1].item() == pytest.approx(3**0.5, rel=1e-3)


def test_what_has_no_outcomes_is_told(tmp_path: Path) -> None:
    ended = cli.run(*cli.SMALL, "rollout=exact", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and "rollout=exact needs options, but the role 'challenger'" in ended.err
    made = build(config(*KUHN))
    with pytest.raises(SelfplayError, match=r"Kuhn has more than 29 outcomes; raise rollout\.limit"):
        exact(made.game, made.opponent, 1, 1, "k", 29)


def test_a_run_of_all_outcomes_is_the_same_for_every_seed(tmp_path: Path) -> None:
    args = ("game=kuhn", "player=tabular", "rollout=exact", "steps=3", "eval.every=1")
    one, two = (cli.metrics(cli.finished(tmp_path / f"{seed}", *args, f"seed={seed}")) for seed in (0, 1))
    assert one == two and one[-1]["eval"]["nash_conv"] < one[0]["eval"]["nash_conv"]
    turns = cli.lines(tmp_path / "0" / "episodes.jsonl")
    assert (
        sum(t["weight"] for t in turns if t["step"] == 1 and t["role"] == "first") > 32
    )  # who is asked twice counts twice
