"""Agreement with the majority, by hand; groups are episodes and prompts; and R-Zero's two learners."""

from pathlib import Path

import cli
import pytest

from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.referees.agreement import Agreement
from selfplay.tasks.arithmetic import Arithmetic


def said(episode: int, place: int, question: str, answer: str) -> Turn:
    return Turn(Ask("solver", user(question), key=f"0/1/{episode}/{place}"), Reply(answer))


def test_by_hand() -> None:
    """Episode 0: 7 wins; a tie in episode 1 goes to the greater string; nobody answers in episode 2."""
    turns = [said(0, i, "q", text) for i, text in enumerate(("7", "8", "7", ""))]
    turns += [said(1, i, "q", text) for i, text in enumerate(("a", "b"))]
    turns += [said(2, i, "q", "") for i in range(2)]
    assert Agreement().score(turns, {}).tolist() == [1, 0, 1, 0, 0, 1, 0, 0]
    order = [3, 5, 0, 6, 1, 4, 2, 7]
    assert Agreement().score([turns[i] for i in order], {}).tolist() == [0, 1, 1, 0, 0, 0, 1, 0]


def test_questions_of_an_episode_are_apart_and_only_answers_are_compared() -> None:
    turns = [said(0, 0, "1+1", "it is 2"), said(0, 1, "2+2", "it is 4"), said(0, 2, "1+1", "2"), said(0, 3, "2+2", "4")]
    assert Agreement(Arithmetic()).score(turns, {}).tolist() == [1, 1, 1, 1]
    assert Agreement().score(turns, {}).tolist() == [1, 1, 0, 0], "the greater string where replies differ"


def test_one_answer_agrees_with_nothing() -> None:
    with pytest.raises(SelfplayError, match=r"but 'what is 1\+1\?' has only one; use game\.answers=2 or more"):
        Agreement().score([said(0, 0, "what is 1+1?", "2")], {})


def test_r_zero_is_two_learners(tmp_path: Path) -> None:
    small = ("eval=none", "episodes=3", "steps=2", "game.answers=4", "player.max_tokens=12")
    run = cli.finished(tmp_path / "run", "experiment=r_zero", *small)
    turns = cli.lines(run / "episodes.jsonl")
    assert {(turn["role"], turn["player"]) for turn in turns if turn["role"] != "chance"} == {
        ("challenger", "challenger"),
        ("solver", "learner"),
    }
    last = cli.metrics(run)[-1]
    assert {"loss", "challenger/loss", "solver/reward"} <= set(last) and 0 < last["solver/reward"] <= 1
