"""The files that people have: JSON lines, CSV, Parquet, folders of save_to_disk; chats; and errors about bad rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest

from selfplay.core import SelfplayError
from selfplay.tasks.records import Records
from selfplay.tasks.sources import file

ROWS = [{"prompt": f'what, "is" {i}+1?\nsay', "solution": str(i + 1), "level": f"l{i}"} for i in range(12)]


def as_jsonl(path: Path, rows: Any) -> Path:
    path = path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Any) -> Path:
    from pandas import DataFrame

    path = path / "rows.csv"
    DataFrame(rows).to_csv(path, index=False)
    return path


def as_tsv(path: Path, rows: Any) -> Path:
    from pandas import DataFrame

    path = path / "rows.tsv"
    DataFrame(rows).to_csv(path, index=False, sep="\t")
    return path


def as_parquet(path: Path, rows: Any) -> Path:
    from datasets import Dataset

    path = path / "rows.parquet"
    Dataset.from_list(rows).to_parquet(path)
    return path


def as_folder(path: Path, rows: Any) -> Path:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(path / "rows")
    return path / "rows"


KINDS: list[Callable[[Path, Any], Path]] = [as_jsonl, as_csv, as_tsv, as_parquet, as_folder]


@pytest.mark.parametrize("write", KINDS)
def test_every_kind_of_file_has_the_same_rows(write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    assert file(str(path)) == tuple(ROWS)
    assert file(str(path)) is file(str(path))  # read once


@pytest.mark.parametrize("write", KINDS)
def test_a_run_on_it_with_columns_from_the_command_line(write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    small = ["game=dataset", "task=records", "task.question=prompt", "task.answer=solution", "task.labels=[level]"]
    run = cli.finished(tmp_path / "run", *cli.SMALL, *small, "steps=1", f"task.source.path={write(tmp_path, ROWS)}")
    asked = {turn["prompt"] for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "solver"}
    assert asked and asked <= {row["prompt"] for row in ROWS}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer\na,b\nc,d,e\n", r"line 3 of .*a\.csv has 3 values, but the header has 2 names"),
        ("a.csv", "question,answer\n\na\n", r"line 3 of .*a\.csv has 1 values, but the header has 2 names"),
        ("a.csv", 'question,answer\n"a\nb",c\n,d\n', r"line 4 of .*a\.csv has an empty question; leave the row out"),
        ("a.csv", 'question,answer\n"a"b,c\n', r"line 2 of .*a\.csv is not CSV \("),
        ("a.csv", 'question,answer\n"a,c\n', r"line 2 of .*a\.csv is not CSV \(unexpected end"),
        ("a.csv", "question;answer\na;b\n", r"'question;answer'; its columns seem to be separated by ';': wr"),
        ("a.csv", "question,question\na,b\n", "the header of .* is question, question; give every column a name"),
        ("a.csv", "", "the task's source has no rows"),
        ("a.csv", "question,answer\n\xff,b\n".encode("latin-1"), "is not UTF-8 text"),
        ("a.tsv", "question,answer\na,b\n", r"separated by ',': write a \.csv with commas"),
        ("a.csv", "prompt,answer\na,b\n", r"line 2 of .* has no field 'question' \(its fields: prompt, answer\)"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n\n{"question": "c"}', r"line 3 of .* has no field 'answer'"),
        ("a.jsonl", '{"question": "a", "answer": ""}', r"line 1 of .*a\.jsonl has an empty answer"),
        ("a.json", '[{"question": "a", "answer": ["b"]}]', r"entry 1 of .* has a list as its 'answer' that is neither"),
        ("a.json", '[{"question": {"a": 1}, "answer": "b"}]', "has a dict as its 'question' that is neither"),
        ("a.parquet", "PAR", r"a\.parquet is not a Parquet file \("),
        ("nowhere.csv", None, r"there is no file .*nowhere\.csv; give one"),
    ],
)  # fmt: skip
def test_bad_rows_are_told_with_their_place(
    name: str, content: str | bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SelfplayError, match=message) as told:
        Records(file(str(tmp_path / name)))
    assert "\n" not in str(told.value)


def test_a_line_separator_within_a_text_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffa,b\r\nx\u2028y,\x85\r\n", encoding="utf-8", newline="")
    assert file(str(tmp_path / "a.csv")) == ({"a": "x\u2028y", "b": "\x85"},)


# --- chats ------------------------------------------------------------------------------------------------------------


def said(*texts: str, first: str = "user") -> list[dict[str, str]]:
    roles = ["system", "user", "assistant", "user", "assistant"]
    roles = roles[roles.index(first) :]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


CHAT: dict[str, Any] = {"question": "messages", "answer": None, "demonstration": "messages", "held_out_share": 0.0}


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_folder])
def test_chats(write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    rows = [{"messages": said("2+2?", "4")}, {"messages": said("Be brief.", "3+3?", "6", first="system")}]
    task = Records(file(str(write(tmp_path, rows))), **CHAT)
    one, two = task.item("2+2?"), task.item("Be brief.\n\n3+3?")
    assert one is not None and two is not None and (one.demonstration, two.demonstration) == ("4", "6")
    right = Records(file(str(write(tmp_path, rows))), **{**CHAT, "answer": "messages"}).item("2+2?")
    assert right is not None and right.answer == "4"


def test_other_forms_of_chats() -> None:
    """ShareGPT's names; a prompt and its completion as two lists of messages; one message without a list."""
    shared = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    forms = [
        ({"conversations": shared}, {"question": "conversations", "demonstration": "conversations"}),
        ({"prompt": said("2+2?"), "completion": said("4", first="assistant")},
         {"question": "prompt", "demonstration": "completion"}),
        ({"prompt": "2+2?", "completion": said("4", first="assistant")[0]},
         {"question": "prompt", "demonstration": "completion"}),
    ]  # fmt: skip
    for row, names in forms:
        item = Records([row], **{**CHAT, **names}).item("2+2?")
        assert item is not None and item.demonstration == "4"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (said("a", "b", "c", "d"), "row 1 has a conversation of user, assistant, user, assistant as its 'messages'"),
        (said("a", first="assistant"), "row 1 has a conversation of assistant as its 'messages', but a task has one"),
        (said("a"), "row 1 has a conversation as its 'messages' that does not end with a message of the assistant"),
        ([], "has a conversation of no messages"),
        ([{"role": "tool", "content": "a"}], "has a message of the role 'tool' in its 'messages'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has a list as its 'messages' that is neither a"),
        (said("", "b"), "row 1 has an empty messages"),
    ],
)  # fmt: skip
def test_chats_that_are_not_one_question(messages: Any, message: str) -> None:
    with pytest.raises(SelfplayError, match=message) as told:
        Records([{"messages": messages}], **CHAT)
    assert "\n" not in str(told.value)


def test_chats_are_learnt(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path, [{"messages": said(f"what is {i}+1?", str(i + 1))} for i in range(12)])
    args = [
        "game=demonstrations",
        "game.answers=0",
        "~seats.solver",
        "reward=none",
        "eval=none",
        "steps=1",
        "episodes=3",
    ]
    args += ["task=records", f"task.source.path={path}", "task.question=messages", "task.answer=null"]
    run = cli.finished(tmp_path / "run", *args, "task.demonstration=messages", "probes=none", "player.max_tokens=12")
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "teacher"]
    assert len(turns) == 3 and all(turn["prompt"] == f"what is {int(turn['reply']) - 1}+1?" for turn in turns)
