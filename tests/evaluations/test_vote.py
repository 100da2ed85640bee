"""Votes over sampled answers: by hand, by enumeration, and from a player with known chances."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import combinations, product
from math import prod
from pathlib import Path
from random import Random
from statistics import fmean

import cli
import pytest
from scripted import Script

from selfplay.core import Reply, SelfplayError
from selfplay.evaluations.vote import Vote, Votes, majority, pass_at, summary
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.match import answer_in, exact, mathematics, number
from selfplay.tasks.records import Records
from selfplay.tasks.task import Item, Task
from selfplay.tasks.tiny_world import TinyWorld
from selfplay.theory.intervals import as_list, bounded, change, share


class Same(Task):
    """Questions of a kind, whose answer is "right"; every third one is hard."""

    def __init__(self, count: int) -> None:
        self.items = [Item(f"q{i}", "right", {"kind": "hard" if i % 3 == 0 else "easy"}) for i in range(count)]

    def draw(self, rng: object) -> str:
        raise AssertionError

    def held_out(self) -> Sequence[Item]:
        return self.items

    def item(self, question: str) -> Item | None:
        return Item(question, "right")

    def correct(self, item: Item, reply: str) -> float:
        return float(self.answer_in(reply) == item.answer)


def player(p: float) -> Script:
    """Answers right with probability p, else wrong."""
    made = Script(lambda ask: Reply("right" if Random(ask.key).random() < p else "wrong"))
    made.with_temperature = lambda temperature: made  # type: ignore[attr-defined]
    return made


# --- by enumeration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_condorcet(p: float) -> None:
    """Three independent voters on two options, all eight outcomes: right with 3 p^2 - 2 p^3."""
    chance = 0.0
    for outcome in product((True, False), repeat=3):
        winner, votes = majority("right" if right else "wrong" for right in outcome)
        assert votes == max(sum(outcome), 3 - sum(outcome))
        chance += prod(p if right else 1 - p for right in outcome) * Votes(outcome, winner, votes).correct
    assert chance == pytest.approx(3 * p**2 - 2 * p**3, abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets() -> None:
    for n in range(1, 7):
        for correct in range(n + 1):
            answers = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                expected = fmean(any(chosen) for chosen in combinations(answers, k))
                assert pass_at(n, correct, k) == pytest.approx(expected, abs=1e-12)


def test_a_player_with_known_chances() -> None:
    """3,000 questions, 3 answers each, right with 0.7: maj@3 is 0.784, pass@3 0.973, to four standard errors."""
    found = summary(Vote(Same(3000), samples=3).votes(player(0.7)), Same(3000).items)  # type: ignore[arg-type]

    def near(name: str, value: object, expected: float) -> None:
        assert value == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 3000) ** 0.5), name

    near("accuracy", found["accuracy"], 3 * 0.49 - 2 * 0.343)
    near("mean", found["mean_accuracy"], 0.7)
    passed = found["pass"]
    assert isinstance(passed, dict) and list(passed) == ["pass@1", "pass@2", "pass@3"]
    near("pass@2", passed["pass@2"], 1 - 0.3**2)
    near("pass@3", passed["pass@3"], 1 - 0.3**3)
    unanimous = 0.7**3 + 0.3**3
    near("agreement", found["agreement"], unanimous + (1 - unanimous) * 2 / 3)
    near("unanimous", found["votes"]["3_of_3"], 0.7**3 / unanimous)  # type: ignore[index]


def test_answers_are_compared_by_the_task_at_the_given_temperature() -> None:
    """Three wordings of the right answer outvote two equal wrong ones and one thought that was cut off."""
    replies = ["wrong", " right", "<think>so</think>right", "<think>wrong", "right\n", "wrong"]
    said = Script(lambda ask: Reply(replies[int(ask.key.rsplit("/", 1)[1]) - 1]))
    asked: list[float] = []
    said.with_temperature = lambda t: asked.append(t) or said  # type: ignore[attr-defined]
    votes = Vote(Same(1), samples=6, temperature=0.7).votes(said)  # type: ignore[arg-type]
    assert votes == [Votes((False, True, True, False, True, False), 1, 3)] and asked == [0.7]


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "winner", "votes"),
    [("abb", 1, 2), ("ab", 0, 1), ("bab", 0, 2), ("abba", 0, 2), ("", None, 0)],
)
def test_the_first_of_the_commonest_answers_wins(answers: str, winner: int | None, votes: int) -> None:
    assert majority(answers) == (winner, votes)


def test_an_empty_answer_does_not_vote() -> None:
    assert majority(["", "", "a"]) == (2, 1) and majority(["", ""]) == (None, 0)
    assert not Votes((True, True), None, 0).correct


FOUND = [
    Votes((True, True, False, False), 0, 2),
    Votes((False, False, False, True), 0, 3),
    Votes((True, True, True, True), 0, 4),
    Votes((True, False, True, False), 0, 2),
    Votes((True, False, False, False), None, 0),
]


def test_a_summary_worked_by_hand() -> None:
    found = summary(FOUND, Same(5).items)
    assert found["accuracy"] == 3 / 5 and found["correct"] == "10110" and found["questions"] == 5
    assert found["interval"] == as_list(share(3, 5))
    single = [2 / 4, 1 / 4, 1.0, 2 / 4, 1 / 4]
    assert found["mean_accuracy"] == fmean(single)
    assert found["mean_accuracy_interval"] == as_list(bounded(single, 0.0, 1.0))
    two = [1 - 1 / 6, 1 / 2, 1.0, 1 - 1 / 6, 1 / 2]
    assert found["pass"] == pytest.approx({"pass@1": fmean(single), "pass@2": fmean(two), "pass@4": 1.0})
    assert found["agreement"] == pytest.approx((2 + 3 + 4 + 2 + 0) / 20)
    assert found["votes"] == {"0_of_4": 0.0, "2_of_4": 1.0, "3_of_4": 0.0, "4_of_4": 1.0}
    assert found["questions_by_votes"] == {"0_of_4": 1, "2_of_4": 2, "3_of_4": 1, "4_of_4": 1}
    assert found["calibration_error"] == pytest.approx((0 + 2 * 0.5 + 0.75 + 0) / 5)
    assert found["kind"] == {"hard": 1.0, "easy": 1 / 3}
    intervals = found["intervals"]
    assert isinstance(intervals, dict) and set(intervals) == {"kind", "pass", "votes"}
    assert intervals["votes"]["2_of_4"] == as_list(share(2, 2))
    assert intervals["pass"]["pass@2"] == pytest.approx(as_list(bounded(two, 0.0, 1.0)))


def test_the_change_is_paired_by_question() -> None:
    before = summary(FOUND, Same(5).items)
    after = summary([*FOUND[:1], *FOUND[2:3] * 4], Same(5).items)
    found = Vote(Same(5), samples=4).gain(before, after)
    assert found["gain"] == pytest.approx(2 / 5) and found["interval"] == as_list(change(2, 0, 5))
    assert found["mean_accuracy"] == pytest.approx((0.5 + 4) / 5 - fmean([0.5, 0.25, 1, 0.5, 0.25]))
    assert found["agreement"] == pytest.approx((2 + 4 * 4) / 20 - 11 / 20)


def test_what_a_vote_cannot_be_told() -> None:
    with pytest.raises(SelfplayError, match=r"eval\.samples is 1, but it must be a whole number, at least 2"):
        Vote(Same(3), samples=1)
    with pytest.raises(SelfplayError, match=r"eval\.temperature is 0, but equal answers need no vote"):
        Vote(Same(3), temperature=0)
    with pytest.raises(SelfplayError, match="Same has no held-out questions"):
        Vote(Same(0))
    unknown = Same(3)
    unknown.judges = False
    with pytest.raises(SelfplayError, match="Same has no ground truth; use eval=win_rate or eval=none"):
        Vote(unknown)


# --- which answers are the same ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "same"),
    [
        (number, ["7", "It is 7.0", "007", "I say 8, no, +7", "70e-1", "<think>9</think>7"]),
        (number, ["0", "-0", "0.000", "0e7"]),
        (number, ["1,200", "1200.", "1.2 × 10^3", "120e1"]),
        (number, ["", "seven", "<think>7"]),
        (exact, ["Yes", " yes. ", "YES", "<think>no</think>yes"]),
        (
            mathematics,
            [r"so \boxed{\frac{1}{2}}.", r"\boxed{ \frac{1} {2} }!", r"\boxed{3}, \boxed{\frac{1}{2}}"],
        ),
        (mathematics, ["x = 2", "X = 2."]),
    ],
)
def test_equal_answers_are_the_same(match: object, same: list[str]) -> None:
    forms = {answer_in(match, reply) for reply in same}  # type: ignore[arg-type]
    assert len(forms) == 1
    assert (forms == {""}) == (same[0] == "")


def test_different_answers_differ() -> None:
    numbers = ["7", "-7", "70", "7.1", "0.7", f"{10**40}", f"{10**40 + 1}", "1e-30", ""]
    assert len({answer_in(number, reply) for reply in numbers}) == len(numbers)
    assert all(Decimal(answer_in(number, reply)) == Decimal(reply) for reply in numbers[:-1])
    assert answer_in(mathematics, r"\boxed{\frac{1}{2}}") != answer_in(mathematics, r"\boxed{\frac{1}{3}}")
    assert answer_in(mathematics, r"3/4 \boxed{1") == r"3/4 \boxed{1"  # not closed


def test_tasks_compare_as_they_judge() -> None:
    assert TinyWorld(1).answer_in("7 ") != TinyWorld(1).answer_in("7")  # which is wrong there
    assert Arithmetic().answer_in("It is 7.0") == "7"
    rows = [{"question": f"q{i}", "answer": f"{i}"} for i in range(30)]
    assert Records(rows, match=number).answer_in("It is 7.0") == "7"
    assert Records(rows).answer_in(" It is 7.0. ") == "it is 7.0"
    assert Same(1).answer_in("<think>so</think> a\n  b ") == "a b"


def test_a_run_reports_it(tmp_path: Path) -> None:
    """Also beside the greedy answers; the untouched model's samples are the same in both."""
    args = ("reward=verifier", "game=dataset", "task.per_cell=1", "steps=0", "player.max_tokens=12")
    folder = cli.finished(tmp_path / "run", "eval=vote", "eval.samples=4", "+eval@extra_evals.one=heldout", *args)
    [line] = cli.metrics(folder)
    found = line["eval"]
    assert found["questions"] == 48 and set(found["pass"]) == {"pass@1", "pass@2", "pass@4"} and "one" in found
    assert found["pass"]["pass@1"] == found["mean_accuracy"] <= found["pass"]["pass@2"] <= found["pass"]["pass@4"]
    assert sum(found["questions_by_votes"].values()) == 48
    assert cli.summary(folder)["optimized"] == {"metric": "eval/accuracy", "value": found["accuracy"]}
