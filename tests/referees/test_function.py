"""A function as a reward: what it is given, what it may return, and what is said where it may not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest
import torch

from selfplay.core import Ask, Message, Reply, SelfplayError, Turn, user
from selfplay.project import function_named
from selfplay.referees.function import Function
from selfplay.tasks.records import Records
from selfplay.tasks.task import Item, Task


class Sums(Task):
    """Of two digits; it knows nothing else."""

    def draw(self, rng: object) -> str:
        raise AssertionError

    def held_out(self) -> list[Item]:
        return []

    def item(self, question: str) -> Item | None:
        if "+" not in question:
            return None
        return Item(question, str(sum(map(int, question.split("+")))), {"levels": "1"})

    def correct(self, item: Item, reply: str) -> float:
        return float(reply == item.answer)


def turn(messages: tuple[Message, ...], text: str) -> Turn:
    return Turn(Ask("solver", messages), Reply(text, (), ()), {}, 0.0)


TURNS = [turn(user("1+2"), "3"), turn(user("hello"), "x"), turn(user("2+2"), "5")]


def score(function: Callable[..., Any], **options: Any) -> list[float]:
    found = Function(function, Sums(), **options).score(TURNS, {})
    assert found.dtype == torch.float32
    return list(found.tolist())


def test_it_is_given_columns() -> None:
    seen: dict[str, Any] = {}

    def f(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [float(c == a) for c, a in zip(completions, columns["answer"], strict=True)]

    assert score(f) == [1.0, 0.0, 0.0]
    assert seen == {
        "prompts": ["1+2", "hello", "2+2"],
        "completions": ["3", "x", "5"],
        "answer": ["3", None, "4"],
        "demonstration": ["", None, ""],
        "levels": ["1", None, "1"],
    }


def test_it_is_given_the_columns_that_it_names() -> None:
    assert score(lambda prompts, completions, levels: [len(levels)] * 3) == [3.0] * 3
    assert score(lambda completions, prompts: torch.arange(3)) == [0.0, 1.0, 2.0]


def test_a_function_of_one_reply() -> None:
    """Whatever it names, it is given: the texts, the task's answer and the columns; None on an unknown question."""
    seen: list[Any] = []

    def f(question: str, answer: str, levels: str | None, reference: str | None = "?", other: str = "mine") -> float:
        seen.append((question, answer, levels, reference, other))
        return float(answer == reference)

    assert score(f) == [1.0, 0.0, 0.0]
    assert seen == [("1+2", "3", "1", "3", "mine"), ("hello", "x", None, None, "mine"), ("2+2", "5", "1", "4", "mine")]
    assert score(lambda answer: len(answer) > 1) == [0.0] * 3
    assert score(lambda question, **columns: len(columns)) == [4.0] * 3  # answer, reference, demonstration, levels
    assert score(lambda answer: None, missing=0.5) == [0.5] * 3
    with pytest.raises(SelfplayError, match=r"reward\.conversational is true, but <lambda> has neither"):
        score(lambda question, answer: 1.0, conversational=True)


def test_columns_of_records_are_as_in_the_file() -> None:
    rows = [
        {"question": f"q{i}", "answer": "a", "level": i, "topics": ["x", None], "reference": "own"} for i in range(8)
    ]
    asked = [turn(user("q3"), "b"), turn(user("q5"), "b")]
    for answer, own in (("answer", "a"), (None, "")):
        made = Function(
            lambda question, answer, level, topics, reference: level + len(topics) + (reference == "own"),
            Records(rows, answer=answer),
        )
        assert made.score(asked, {}).tolist() == [6.0, 8.0]
        batched = Function(
            lambda completions, answer, level, own=own: [a == own for a in answer], Records(rows, answer=answer)
        )
        assert batched.score(asked, {}).tolist() == [1.0, 1.0]
    unknown = Function(lambda level: float(level is None), Records(rows)).score([turn(user("else"), "")], {})
    assert unknown.tolist() == [1.0]  # a column of the task, though not of this question


def test_messages_as_trl_hands_them_over() -> None:
    def f(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        assert prompts[0] == [{"role": "user", "content": "1+2"}]
        return [float(completion[0]["content"] == "3") for completion in completions]

    assert score(f, conversational=True) == [1.0, 0.0, 0.0]


def test_none_is_an_error_or_has_a_worth() -> None:
    f = lambda prompts, completions: [1.0, None, 2.0]  # noqa: E731
    assert score(f, missing=-1.0) == [1.0, -1.0, 2.0]
    with pytest.raises(SelfplayError, match=r"returned None for a turn; .* reward.missing=0"):
        score(f)


WRONG = {
    "raises": (lambda prompts, completions: {}["answer"], r"raised KeyError \('answer'\) on 3 turns; fix it"),
    "too few": (lambda prompts, completions: [1.0], "returned 1 values for 3 turns"),
    "a number": (lambda prompts, completions: 1.0, "returned a float for 3 turns"),
    "nothing": (lambda prompts, completions: None, "returned a NoneType for 3 turns"),
    "NaN": (lambda prompts, completions: [1.0, float("nan"), 1.0], "returned nan for a turn; return a finite number"),
    "texts": (lambda prompts, completions: ["1"] * 3, "returned '1' for a turn"),
    "a missing column": (
        lambda prompts, difficulty: [1.0] * 3,
        "takes difficulty, but the columns are demonstration, answer, levels, prompts, completions; rename",
    ),
    "of one reply": (lambda answer: {}["x"], r"raised KeyError \('x'\) on 3 turns; fix it"),
    "not a number": (lambda answer: answer, "returned '3' for a turn; return a finite number"),
    "a missing name": (
        lambda q, answer: 1.0,
        "takes q, but the columns are reference, demonstration, levels, question, answer; rename the parameter",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_it_does_wrong_is_told(case: str) -> None:
    function, words = WRONG[case]
    with pytest.raises(SelfplayError, match=words) as told:
        score(function)  # type: ignore[arg-type]
    assert "reward.function <lambda>" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("path", ["no_module.f", "math.nothing", "f", "", "math.pi"])
def test_a_name_that_leads_nowhere(path: str) -> None:
    with pytest.raises(SelfplayError, match=f"reward.function is '{path}', which"):
        function_named(path)


def test_a_run_in_a_folder_with_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_.py").write_text(
        "def f(prompts, completions, answer):\n    return [len(a or '') for a in answer]\n"
    )
    monkeypatch.chdir(tmp_path)
    small = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    run = cli.finished(tmp_path / "run", *small, "reward=function", "reward.function=mine_.f", "game=dataset")
    turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "solver"]
    assert turns and all(turn["scores"]["reward"] >= 1 for turn in turns)
    ended = cli.run(f"resume={run}", "steps=3")
    assert ended.code == 1 and "reward.function calls mine_.f" in ended.err and "trust=mine_" in ended.err
    assert cli.run(f"resume={run}", "steps=3", "trust=mine_").code == 0
    missing = cli.run(*small, "reward=function", "reward.function=mine_.g", f"hydra.run.dir={tmp_path / 'other'}")
    assert missing.code == 1 and "reward.function is 'mine_.g', which cannot be imported" in missing.err


def test_five_lines_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function on the command line, and in a yaml of three lines."""
    (tmp_path / "my_reward_.py").write_text("def reward(question, answer, level):\n    return len(answer) * level\n")
    rows = [{"question": f"what is {i}+1?", "answer": str(i + 1), "level": 2} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "mine.yaml").write_text("defaults:\n  - function\nfunction: my_reward_.reward\n")
    monkeypatch.chdir(tmp_path)
    small = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    small += ["game=dataset", "task=records", "task.source.path=rows.jsonl", "probes=none", "steps=1"]
    for name, chosen in {
        "line": ["reward=function", "reward.function=my_reward_.reward"],
        "yaml": ["reward=mine"],
    }.items():
        run = cli.finished(tmp_path / name, *small, *chosen)
        turns = [turn for turn in cli.lines(run / "episodes.jsonl") if turn["role"] == "solver"]
        assert turns and all(turn["scores"]["reward"] == 2 * len(turn["reply"]) for turn in turns)
