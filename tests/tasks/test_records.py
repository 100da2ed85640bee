"""Questions from files and data sets: what is read, what is held out, and what is said where it cannot be."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import cli
import pytest
import stored
from configs import config

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.players.scripted import right
from selfplay.tasks.records import Records
from selfplay.tasks.sources import huggingface, jsonl
from selfplay.tasks.split import is_held_out

QA = [{"question": f"q{i}", "answer": f"a{i}", "kind": "even" if i % 2 == 0 else "odd"} for i in range(100)]


def records(rows: Any = QA, **changes: Any) -> Records:
    return Records(rows, **changes)


def drawn(task: Records) -> set[str]:
    return {task.draw(Random(i)) for i in range(3000)}


def test_a_hash_holds_a_share_out_whatever_the_order() -> None:
    task, turned = records(), records(QA[::-1])
    held = {item.question for item in task.held_out()}
    assert held == {row["question"] for row in QA if is_held_out(row["question"], 0.125)} and 4 < len(held) < 22
    assert held == {item.question for item in turned.held_out()}
    assert drawn(task) == {row["question"] for row in QA} - held
    assert records(held_out_share=0.0).held_out() == [] and len(records(most=3).held_out()) == 3


def test_the_share_is_about_the_share() -> None:
    assert sum(is_held_out(f"{i}", 0.125) for i in range(8000)) == pytest.approx(1000, abs=100)
    assert not any(is_held_out(f"{i}", 0.0) for i in range(100)) and all(is_held_out(f"{i}", 1.0) for i in range(100))


def test_a_second_source_is_held_out_and_taken_from_the_first() -> None:
    task = records(QA, held_out_rows=[*QA[90:], {"question": "new", "answer": "b"}])
    assert [item.question for item in task.held_out()] == [*(f"q{i}" for i in range(90, 100)), "new"]
    assert drawn(task) == {f"q{i}" for i in range(90)}
    assert task.item("new").answer == "b" and task.item("q95").answer == "a95"  # type: ignore[union-attr]


def test_fields_are_joined_and_empty_ones_left_out() -> None:
    rows = [{"instruction": "do", "input": None, "n": 1}, {"instruction": "do", "input": "this", "n": 2}]
    task = records(rows, question=["instruction", "input"], answer="n", labels=["n"], held_out_share=0.0)
    assert drawn(task) == {"do", "do\n\nthis"}
    item = task.item("do\n\nthis")
    assert item is not None and item.answer == "2" and item.labels == {"n": "2"}


def test_the_part_of_an_answer_that_counts() -> None:
    task = make(config("task=gsm8k", *stored.needed("gsm8k")).task, "task")
    item = task.held_out()[0]
    assert item.answer == "1,040" and task.correct(item, "That makes 1040.") == 1.0 and task.correct(item, "40") == 0.0


@pytest.mark.parametrize(
    ("name", "question", "shown"),
    [
        ("gsm8k", "what is 3+1?", "3 and 1 are <<3+1=4>>.\n#### 1,003"),
        ("math", "what is $\\frac{3}{7}$?", "..."),
        ("alpaca", "say 3\n\nand more", "?"),
        ("huggingface", "what is 3+1?", "4"),
    ],
)
def test_a_teacher_shows_all_of_it(name: str, question: str, shown: str) -> None:
    """A demonstration is the solution or the output, not the part of the answer that counts."""
    task = make(config(f"task={name}", *stored.needed(name)).task, "task")
    assert right(question, task) == shown


def test_the_first_demonstration_of_a_question_is_shown() -> None:
    rows = [
        {"q": "a", "n": "7", "long": " it is 7 "},
        {"q": "a", "n": "7", "long": "seven: 7"},
        {"q": "b", "n": "8", "long": None},
    ]
    task = records(rows, question="q", answer="n", demonstration="long", held_out_share=0.0)
    assert (right("a", task), right("b", task)) == ("it is 7", "8")
    with pytest.raises(SelfplayError, match=r"row 1 has no field 'solution'.*task\.demonstration"):
        records(rows, question="q", answer="n", demonstration="solution")


def test_long_demonstrations_are_not_drawn() -> None:
    rows = [{"q": f"q{i}", "long": "x" * i} for i in range(40)]
    options: dict[str, Any] = {"question": "q", "answer": None, "demonstration": "long", "held_out_share": 0.2}
    task = records(rows, longest=9, **options)
    held = {item.question for item in task.held_out()}
    assert held == {item.question for item in records(rows, **options).held_out()}, "to be judged by, all of them"
    assert drawn(task) == {f"q{i}" for i in range(10)} - held
    with pytest.raises(SelfplayError, match=r"task\.longest is -1, but every demonstration is longer"):
        records(rows, longest=-1, **options)


def test_the_match_is_asked() -> None:
    asked: list[tuple[str, str]] = []

    def match(reply: str, answer: str) -> float:
        asked.append((reply, answer))
        return 0.25

    task = records(match=match)
    item = task.item("q1")
    assert item is not None and task.correct(item, "r") == 0.25 and asked == [("r", "a1")]


def test_the_same_question_twice_is_one() -> None:
    assert len(drawn(records([*QA, *QA], held_out_share=0.0))) == 100


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "has no rows"),
        ([{"q": "x", "a": "y"}], {}, r"row 1 has no field 'question' \(its fields: q, a\)"),
        ([{"question": "x"}], {}, r"row 1 has no field 'answer' \(its fields: question\)"),
        ([{"question": "x", "answer": " "}], {}, "row 1 has an empty answer"),
        ([{"question": "", "answer": "y"}], {}, "row 1 has an empty question"),
        (
            [{"question": "x", "answer": "y"}, {"question": "x", "answer": "z"}],
            {},
            "row 2 answers 'x' with 'z', an earlier row with 'y'",
        ),
        (QA, {"held_out_share": 1.0}, "all 100 questions of the task are held out"),
        (QA, {"held_out_share": -0.1}, "task.held_out_share is -0.1"),
        (QA, {"pattern": "("}, "not a regular expression"),
        (QA, {"pattern": "a"}, "with 0 groups"),
        (QA, {"pattern": "(b)"}, "the answer of row 1 does not match"),
        (QA, {"labels": ["topic"]}, "has no field 'topic'"),
    ],
)
def test_mistakes(rows: list[Mapping[str, Any]], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SelfplayError, match=message):
        records(rows, **changes)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_of_lines_or_of_one_list(tmp_path: Path) -> None:
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text('\ufeff{"a": "é\u2028b"}\n\n{"a": 2}\r\n', encoding="utf-8")
    whole.write_text(' [{"a": "é\u2028b"}, {"a": 2}]', encoding="utf-8")
    assert jsonl(str(lines)) == jsonl(str(whole)) == ({"a": "é\u2028b"}, {"a": 2})


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n')
    assert jsonl(str(file)) is jsonl(str(file))
    file.write_text('{"a": 1}\n{"a": 2}\n')
    assert len(jsonl(str(file))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2 of .* is not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2 of .* is a list, not a JSON object"),
        (b'{"a": 1}\n{"a": ["\\ud800"]}', "line 2 of .* has half a surrogate pair"),
        (b"[1]", "entry 1 of .* is a int"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
    ],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(SelfplayError, match=message):
        jsonl(str(tmp_path / "a.jsonl"))


def test_no_file() -> None:
    with pytest.raises(SelfplayError, match=r"there is no file nowhere\.jsonl"):
        jsonl("nowhere.jsonl")


# --- data sets --------------------------------------------------------------------------------------------------------


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    from datasets import Dataset

    assert huggingface(stored.path("math"), split="test") == tuple(stored.rows("math", stored.COUNT, 8))
    Dataset.from_list(QA).save_to_disk(tmp_path / "one")
    assert huggingface(str(tmp_path / "one")) == tuple(QA)
    Dataset.from_list(QA).to_parquet(tmp_path / "a.parquet")
    assert huggingface(str(tmp_path / "a.parquet"), split="train[:2]") == tuple(QA[:2])


def test_data_sets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match="has no split 'dev'"):
        huggingface(stored.path("math"), split="dev")
    for path in (str(tmp_path / "nowhere"), "nobody/nothing", str(tmp_path)):
        with pytest.raises(SelfplayError, match=f"the dataset '{path}' .* cannot be loaded"):
            huggingface(path)


def test_alpaca_s_questions_are_instruction_and_input() -> None:
    task = make(config("task=alpaca", *stored.needed("alpaca")).task, "task")
    found = {task.draw(Random(i)) for i in range(2000)} | {item.question for item in task.held_out()}
    assert found == {f"say {i}" + ("\n\nand more" if i % 2 else "") for i in range(stored.COUNT)}


# --- runs -------------------------------------------------------------------------------------------------------------


def test_questions_without_answers_train_with_another_reward(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps({"question": f"add {i} and 4"}) + "\n" for i in range(30)))
    args = [
        "task=records",
        f"task.source.path={file}",
        "task.answer=null",
        "game=dataset",
        "steps=1",
        "episodes=2",
        "game.answers=2",
    ]
    refused = cli.run(*args, f"hydra.run.dir={tmp_path / 'a'}", "reward=verifier", "probes.truth=null", "eval=none")
    assert refused.code == 1 and "use another reward, for example reward=rm" in refused.err
    probed = cli.run(*args, f"hydra.run.dir={tmp_path / 'b'}", "reward=rm", "eval=none")
    assert probed.code == 1 and "probes.truth=null" in probed.err
    folder = cli.finished(tmp_path / "c", *args, "reward=rm", "probes.truth=null", "eval=win_rate")
    assert {"win_rate", "length", "opponent_length"} <= set(cli.summary(folder)["eval"]["after"])
