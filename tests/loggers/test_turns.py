"""The sample of a step's turns, by hand."""

import pytest

from selfplay.core import Ask, Episode, Reply, Turn, user
from selfplay.loggers.turns import LONGEST, columns, sample


def turn(role: str, reply: str, payoff: float, prompt: str = "?", **scores: float) -> Turn:
    return Turn(Ask(role, user(prompt)), Reply(reply), player="learner", scores=scores, payoff=payoff)


def episode(*turns: Turn) -> Episode:
    return Episode(0, list(turns))


def replies(most: int, *turns: Turn) -> list[object]:
    return [row["reply"] for row in sample(3, [episode(*turns)], most)]


FIVE = [turn("solver", name, payoff) for name, payoff in (("d", 4.0), ("a", 1.0), ("e", 5.0), ("c", 3.0), ("b", 2.0))]


@pytest.mark.parametrize(("most", "chosen"), [(9, "abcde"), (5, "abcde"), (4, "abde"), (3, "ace"), (2, "ae"), (1, "e")])
def test_evenly_spaced_from_the_lowest_to_the_highest_payoff(most: int, chosen: str) -> None:
    assert replies(most, *FIVE) == list(chosen)


def test_the_rows_are_divided_among_roles_and_chance_is_left_out() -> None:
    turns = [turn("chance", "x", 0.0), *FIVE, turn("challenger", "hard", 2.0), turn("challenger", "easy", 1.0)]
    assert replies(4, *turns) == ["a", "e", "easy", "hard"]
    assert replies(1, *turns) == ["e", "hard"]
    assert sample(1, [episode(turn("chance", "x", 0.0))], 4) == [] == sample(1, [], 4)


def test_equal_turns_count_once() -> None:
    assert (
        replies(9, turn("solver", "a", 1.0), turn("solver", "a", 1.0), turn("solver", "a", 1.0, "other?")) == ["a"] * 2
    )


def test_the_columns_are_those_of_all_scores() -> None:
    first, second = turn("solver", "a", 1.0, reward=1.0), turn("solver", "b", 2.5, truth=0.0)
    assert columns(sample(7, [episode(first), episode(second)], 4)) == (
        ["step", "role", "player", "prompt", "reply", "payoff", "score/reward", "score/truth"],
        [[7, "solver", "learner", "?", "a", 1.0, 1.0, None], [7, "solver", "learner", "?", "b", 2.5, None, 0.0]],
    )


def test_long_texts_are_cut_and_lone_surrogates_replaced() -> None:
    [row] = sample(1, [episode(turn("solver", "a\ud800b", 1.0, "x" * (LONGEST + 1)))], 1)
    assert row["reply"] == "a?b" and row["prompt"] == "x" * (LONGEST - 1) + "…"
