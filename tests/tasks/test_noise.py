"""Noisy teachers: which questions are noisy, what is said to them, and how pure a choice of them is."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import cli
import pytest

from selfplay.core import SelfplayError
from selfplay.players.scripted import right
from selfplay.runs import RunFolder
from selfplay.runs.trust import check_targets
from selfplay.tasks.noise import habitual, noisy, swapped
from selfplay.tasks.records import Records
from selfplay.tasks.task import Task
from selfplay.tasks.tiny_world import TinyWorld, parse

WORLD = TinyWorld(per_cell=1)
QUESTIONS = list(dict.fromkeys(WORLD.draw(Random(i)) for i in range(4000)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("teacher", [swapped, habitual])
def test_the_noisy_ones_are_wrong_and_the_others_right(teacher: Callable[..., str], share: float) -> None:
    """So the purity of any choice of questions is its share of questions that are not noisy, exactly."""
    said = {q: teacher(q, WORLD, share, 3) for q in QUESTIONS[:1500]}
    wrong = {q for q, text in said.items() if WORLD.correct(WORLD.item(q), text) < 1}  # type: ignore[arg-type]
    assert wrong == {q for q in said if noisy(q, share, 3)}
    assert all(text == right(q, WORLD) for q, text in said.items() if q not in wrong)
    chosen = sorted(said)[::7]
    purity = sum(said[q] == right(q, WORLD) for q in chosen) / len(chosen)
    assert purity == 1 - sum(noisy(q, share, 3) for q in chosen) / len(chosen)


def test_the_share_is_about_the_share_whatever_else_is_hashed() -> None:
    """Also among held-out questions, whose hash is another one; another seed chooses others."""
    count = len(QUESTIONS)
    assert count > 3000
    found = [noisy(q, 0.6) for q in QUESTIONS]
    assert sum(found) / count == pytest.approx(0.6, abs=4 * (0.24 / count) ** 0.5)
    other = [noisy(q, 0.6, 1) for q in QUESTIONS]
    both = sum(a and b for a, b in zip(found, other, strict=True)) / count
    assert both == pytest.approx(0.36, abs=4 * (0.23 / count) ** 0.5)
    assert all(b for a, b in zip(found, (noisy(q, 0.8) for q in QUESTIONS), strict=True) if a), "they are nested"


def test_a_swapped_answer_is_that_of_another_question() -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(100)]
    task = Records(rows, held_out_share=0.0)
    said = {row["question"]: swapped(row["question"], task, 1.0) for row in rows}
    assert set(said.values()) <= {row["answer"] for row in rows} and len(set(said.values())) > 50
    assert said == {q: swapped(q, task, 1.0) for q in said}, "always the same"
    assert said != {q: swapped(q, task, 1.0, 1) for q in said}


def test_a_habitual_answer_is_the_familys_mistake() -> None:
    assert habitual("add 30 and 4", WORLD, 1.0) == "35" and habitual("reverse abc", WORLD, 1.0) == "abc"
    for q in QUESTIONS[:200]:
        found = parse(q)
        assert found is not None and habitual(q, WORLD, 1.0) == found.mistake


def test_demonstrations_of_records_are_swapped_as_they_are() -> None:
    """Whole demonstrations; one that has the right answer in other words is not taken."""
    rows = [
        {"question": "a", "answer": "1", "long": "it is 1"},
        {"question": "b", "answer": "1", "long": "one, 1"},
        {"question": "c", "answer": "2", "long": "it is 2"},
    ]

    def match(reply: str, answer: str) -> float:
        return float(reply[-1] == answer)

    task = Records(rows, demonstration="long", match=match, held_out_share=0.0)
    assert {swapped("a", task, 1.0, seed) for seed in range(20)} == {"it is 2"}
    assert {swapped("c", task, 1.0, seed) for seed in range(20)} == {"it is 1", "one, 1"}
    unknown = Records(rows, answer=None, demonstration="long", held_out_share=0.0)
    assert {swapped("a", unknown, 1.0, seed) for seed in range(20)} == {"it is 2", "one, 1"}


def test_what_cannot_be_noisy() -> None:
    alike: Task = Records([{"question": q, "answer": "1"} for q in "ab"], held_out_share=0.0)
    with pytest.raises(SelfplayError, match=r"1000 other questions of Records have the same answer as 'a'"):
        swapped("a", alike, 1.0)
    assert swapped("a", alike, 0.0) == "1"
    with pytest.raises(SelfplayError, match=r"'a' is not a question of the tiny world.*noise\.swapped"):
        habitual("a", alike, 0.0)
    with pytest.raises(SelfplayError, match="'what\\?' is not a question of task TinyWorld"):
        swapped("what?", WORLD, 1.0)
    with pytest.raises(SelfplayError, match=r"players\.teacher\.answer\.share is 1\.5"):
        noisy("a", 1.5)


def test_a_noisy_teacher_of_a_run(tmp_path: Path) -> None:
    run = cli.finished(
        tmp_path / "run", "game=demonstrations", "game.answers=0", "~seats.solver", "reward=none", "update=sft",
        "players.teacher.answer._target_=selfplay.tasks.noise.habitual", "+players.teacher.answer.share=0.5",
        "task.per_cell=1", "episodes=16", "steps=1", "eval=none",
    )  # fmt: skip
    check_targets(RunFolder.open(run).config, run / "config.yaml")  # it can be resumed without trust=
    turns = cli.lines(run / "episodes.jsonl")
    pairs = {chance["reply"]: teacher["reply"] for chance, teacher in zip(turns[::2], turns[1::2], strict=True)}
    assert all((text != right(q, WORLD)) == noisy(q, 0.5) for q, text in pairs.items())
    assert 0 < sum(noisy(q, 0.5) for q in pairs) < len(pairs)
