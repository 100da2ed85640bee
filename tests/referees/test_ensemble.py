"""Several referees as one, by hand; how far they disagree; what the command line may make of the parts."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import cli
import pytest
import torch
from scripted import Fixed

from selfplay.core import Ask, Referee, Reply, SelfplayError, Turn, user
from selfplay.metrics import of_referees
from selfplay.referees.ensemble import Minimum, WeightedSum, concordance, spread

TURNS = [Turn(Ask("solver", user("q")), Reply(str(i))) for i in range(4)]
A, B = [0.0, 1.0, 2.0, 5.0], [4.0, 2.0, 2.0, 0.0]


class Counting(Fixed):
    """Has something to report."""

    metrics: ClassVar[Mapping[str, float]] = {"unreadable": 0.25}


def test_a_weighted_sum_by_hand() -> None:
    total = WeightedSum({"a": Fixed(A), "b": Counting(B)}, {"b": -0.5, "a": 2.0})
    assert total.score(TURNS, {}).tolist() == [-2.0, 1.0, 3.0, 10.0]
    found = of_referees({"reward": total})
    assert found["reward/a"] == found["reward/b"] == 2.0
    assert found["reward/b/unreadable"] == 0.25
    assert set(found) == {f"reward/{name}" for name in ("a", "b", "b/unreadable", "disagreement", "kendall")}


def test_a_minimum_by_hand() -> None:
    """a: 0 1 2 5; half of b: 2 1 1 0. A tie counts half for each."""
    total = Minimum({"a": Fixed(A), "b": Fixed(B)}, {"a": 1.0, "b": 0.5})
    assert total.score(TURNS, {}).tolist() == [0.0, 1.0, 1.0, 0.0]
    assert (total.metrics["a/least"], total.metrics["b/least"]) == (1.5 / 4, 2.5 / 4)


def test_disagreement_by_hand() -> None:
    """a has mean 2 and variance (4 + 1 + 0 + 9) / 4; b mean 2 and variance (4 + 0 + 0 + 4) / 4."""
    za = [x / math.sqrt(14 / 4) for x in (-2, -1, 0, 3)]
    zb = [x / math.sqrt(8 / 4) for x in (2, 0, 0, -2)]
    by_hand = sum(abs(x - y) / 2 for x, y in zip(za, zb, strict=True)) / 4
    assert spread(torch.tensor([A, B], dtype=torch.float64)) == pytest.approx(by_hand)
    for same in ([A, A], [A, [3 * x + 7 for x in A]], [[1.0] * 4, [2.0] * 4]):
        assert spread(torch.tensor(same, dtype=torch.float64)) == pytest.approx(0.0, abs=1e-12)
    assert spread(torch.tensor([A, [-x for x in A]], dtype=torch.float64)) == pytest.approx(sum(map(abs, za)) / 4)


def test_concordance_by_hand() -> None:
    """Of six pairs of turns, a and b order five, all of them against one another; b has one tie: τ-b = -5 / √(6·5)."""
    assert concordance(torch.tensor([A, B])) == pytest.approx(-5 / math.sqrt(30))
    assert concordance(torch.tensor([A, [2.0] * 4])) is None
    third = [0.0, 1.0, 3.0, 2.0]  # one pair of six against a; against b four against and one for
    pairs = [-5 / math.sqrt(30), (5 - 1) / 6, (1 - 4) / math.sqrt(30)]
    assert concordance(torch.tensor([A, B, third, [0.0] * 4])) == pytest.approx(sum(pairs) / 3)


def test_one_turn_disagrees_with_nobody() -> None:
    total = WeightedSum({"a": Fixed([1.0]), "b": Fixed([3.0])}, {"a": 1.0, "b": 1.0})
    assert total.score(TURNS[:1], {}).tolist() == [4.0]
    assert total.metrics == {"a": 1.0, "b": 3.0, "disagreement": 0.0}


@pytest.mark.parametrize("kind", [WeightedSum, Minimum])
def test_what_is_no_total(kind: type[Referee]) -> None:
    part, other = Fixed(A), Fixed(A, roles=("challenger",))
    for parts, weights, words in (
        ({"a": part}, {"a": 1.0}, r"has the parts \['a'\]; give it at least two"),
        ({"a": part, "b": None}, {"a": 1.0}, r"has the parts \['a'\]; give it at least two"),
        ({"a": part, "b": part}, {"a": 1.0}, "the parts a, b, but weights for a; give each"),
        ({"a": part, "b": other}, {"a": 1, "b": 1}, "a: the judged roles, b: challenger.*leave one out"),
    ):
        with pytest.raises(SelfplayError, match=words):
            kind(parts, weights)  # type: ignore[call-arg]
    assert kind({"a": other, "b": other}, {"a": 1, "b": 1}).roles == ("challenger",)  # type: ignore[call-arg]


@pytest.mark.parametrize("scores", [[1.0, math.nan, 1.0, 1.0], [1.0], [[1.0] * 4]])
def test_a_part_that_fails_is_named(scores: list[float]) -> None:
    total = WeightedSum({"a": Fixed(A), "broken": Fixed(scores)}, {"a": 1.0, "broken": 0.0})
    with pytest.raises(SelfplayError, match=r"the part 'broken' \(Fixed\) of an ensemble did not return"):
        total.score(TURNS, {})


# --- from the command line --------------------------------------------------------------------------------------------


def test_parts_are_chosen_on_the_command_line() -> None:
    plain = cli.composed("reward=ensemble").reward
    assert plain.parts.rm._target_.endswith(".RewardModel") and plain.parts.selfjudge._target_.endswith("ExpectedScore")
    other = cli.composed(
        "reward=ensemble", "reward@reward.parts.rm=verifier", "+reward@reward.parts.judge=judge",
        "+reward.weights.judge=2", "reward.parts.judge.endpoint.model=m",
    ).reward  # fmt: skip
    assert other.parts.rm._target_.endswith(".Verifier")
    assert other.parts.judge._target_.endswith(".ScoringJudge") and other.parts.judge.endpoint.model == "m"
    less = cli.composed("reward=ensemble", "~reward.parts.rm", "~reward.weights.rm").reward
    assert list(less.parts) == list(less.weights) == ["selfjudge"]


def test_a_run_logs_what_the_parts_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    more = ["reward=ensemble", "+reward@reward.parts.truth=verifier", "+reward.weights.truth=3"]
    folder = cli.finished(tmp_path / "run", *small, *more)
    for line in cli.metrics(folder):
        mean = line["reward/rm"] + 0.14 * line["reward/selfjudge"] + 3 * line["reward/truth"]
        assert line["solver/reward"] == pytest.approx(mean, abs=1e-5)
        assert line["reward/disagreement"] > 0 and -1 <= line["reward/kendall"] <= 1
        assert 0 <= line["reward/selfjudge/unreadable"] <= 1
