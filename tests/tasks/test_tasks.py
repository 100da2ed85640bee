"""Every task under conf/task keeps its word: found by glob, with what it needs from `stored`."""

import sys
from functools import cache
from pathlib import Path
from random import Random

import cli
import pytest
import stored
from configs import CONF, config

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.tasks.task import Task

NAMES = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
HOSTILE = {
    "nothing": "",
    "long": "x" * 100_000,
    "words": "no " * 30_000,
    "control": "\x00\x01\x1b[31m\x7f\r\x08",
    "surrogate": "\ud800 \udfff",
    "tags": "<answer><answer></answer><|im_end|></s>{question}{answer}",
    "braces": "{" * 3000 + "[" * 3000 + "(" * 3000,
    "digits": "9" * 5000,
    "many digits": "9" * 1_000_000,
    "tower": "9**9**9**9",
    "code": "__import__('os').abort()",
    "not a number": "nan",
    "infinite": "1e999999",
    "latex": "\\boxed{" + "\\frac{" * 300 + "$$$",
}


@cache
def task_of(name: str) -> Task:
    made: Task = make(config(f"task={name}", *stored.needed(name)).task, "task")
    return made


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return task_of(request.param)


def drawn(task: Task, count: int = 60) -> list[str]:
    return [task.draw(Random(f"draw/{i}")) for i in range(count)]


def test_there_are_tasks() -> None:
    assert {"world", "records", "huggingface", "arithmetic", "gsm8k", "math", "alpaca", "ifbench"} <= set(NAMES)


def test_the_same_luck_draws_the_same_question(task: Task) -> None:
    assert drawn(task) == drawn(task)
    assert len(set(drawn(task))) > 5


def test_held_out_questions_are_different_and_never_drawn(task: Task) -> None:
    held = [item.question for item in task.held_out()]
    assert held and len(set(held)) == len(held) and not set(held) & set(drawn(task, 300))
    assert [item.question for item in task.held_out()] == held


def test_what_is_drawn_or_held_out_is_known(task: Task) -> None:
    for question in drawn(task):
        item = task.item(question)
        assert item is not None and item.question == question
    for item in task.held_out():
        assert task.item(item.question) == item


def test_no_text_of_somebody_else_is_a_question(task: Task) -> None:
    assert [name for name, text in HOSTILE.items() if task.item(text) is not None] == []


def test_whoever_asks_a_held_out_question_it_is_held_out(task: Task) -> None:
    assert all(task.holds_out(item.question) for item in task.held_out()[:20])
    assert not any(task.holds_out(question) for question in [*drawn(task), "", *HOSTILE.values()])


def test_the_right_answer_is_right_and_others_are_not(task: Task) -> None:
    known = [item for item in task.held_out() if item.answer]
    if not task.judges:
        with pytest.raises(SelfplayError, match="have no answers"):
            task.correct(task.held_out()[0], "42")
    for item in known:
        assert task.correct(item, item.answer) == 1.0
        assert task.correct(item, "I do not know") < 1.0
        assert task.answer_in(item.answer) not in ("", task.answer_in("I do not know"))


@pytest.mark.parametrize("reply", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_reply_breaks_nothing_and_is_not_right(task: Task, reply: str) -> None:
    if task.judges and task.held_out()[0].answer:  # IFBench has none: some constraints are kept by any text
        for item in task.held_out()[:1]:
            assert 0.0 <= task.correct(item, reply) < 1.0
    assert isinstance(task.answer_in(reply), str)


def test_a_task_that_judges_serves_as_reward_and_evaluation() -> None:
    for name in NAMES:
        composed = config(f"task={name}", "reward=verifier", *stored.needed(name))
        if task_of(name).judges:
            assert make(composed.reward, "reward").task.item("") is None
        else:
            with pytest.raises(SelfplayError, match=r"has no ground truth.*reward=rm.*probes\.truth=null"):
                make(composed.reward, "reward")
            with pytest.raises(SelfplayError, match="use eval=win_rate"):
                make(config(f"task={name}", *stored.needed(name)[:-1]).eval, "eval")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("world", "ladder", "arithmetic")])
def test_every_task_of_others_says_what_is_lacking(name: str, tmp_path: Path) -> None:
    """Without its file, or offline without its data set, the error is one sentence with the remedy."""
    if name in ("ifbench", "reasoning_gym", "programs", "preferences"):
        return  # theirs come with a package (test_extras below), or with this one
    ended = cli.run(f"task={name}", "steps=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1 and "give" in ended.err


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("datasets", "huggingface", "data"),
        ("math_verify", "math", "math"),
        ("reasoning_gym", "reasoning_gym", "reasoning-gym"),
        ("ifbench", "ifbench", "ifbench"),
    ],
)
def test_extras(module: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfplay.tasks import ifbench, reasoning_gym, sources

    needed = stored.needed(name)
    for cached in (sources.huggingface, ifbench.load, reasoning_gym._entries):
        cached.cache_clear()
    if name == "math":
        task = make(config("task=math", *needed).task, "task")
    for loaded in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)  # they would be found without their package
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SelfplayError, match=rf"pip install 'selfplay\[{extra}\]'"):
        if name == "math":
            task.correct(task.held_out()[0], "1")
        else:
            make(config(f"task={name}", *needed).task, "task")
