"""A run's questions as data: which are used, what is held out, and what is said where there are none."""

import json
from pathlib import Path
from random import Random
from typing import Any

import cli
import pytest

from selfplay.core import SelfplayError
from selfplay.players.scripted import right
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.records import Records
from selfplay.tasks.tiny_world import TinyWorld, draw
from selfplay.tasks.transcripts import Transcripts

WORLD = TinyWorld(per_cell=1)


def asked(folder: Path, *turns: tuple[int, float, str], role: str = "challenger", status: str = "finished") -> Path:
    """A run with these turns: (step, payoff, reply)."""
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"status": status}))
    lines = [{"step": s, "role": role, "reply": text, "payoff": paid, "advantage": None} for s, paid, text in turns]
    answers = [{"step": s, "role": "solver", "reply": "add 1 and 1", "payoff": 1.0} for s, _, _ in turns]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines + answers))
    return folder


def drawn(task: Transcripts) -> set[str]:
    return {task.draw(Random(i)) for i in range(300)}


TRAINED = [draw(Random(i), "add", 1).text for i in range(40)]  # different ones, none held out
A, B, C = list(dict.fromkeys(TRAINED))[:3]
HELD = draw(Random(0), "add", 1, heldout=True).text


def test_valid_questions_are_drawn_alike_and_held_out_ones_never(tmp_path: Path) -> None:
    """Repeated questions once, the paper's tags taken off; an eighth of all operands is held out, in any wording."""
    tagged = f"[Start Generation] {C} [End Generation]"
    run = asked(tmp_path / "run", (1, 0, A), (1, 0, A), (1, 0, B), (2, 0, "what?"), (2, 0, HELD), (3, 0, tagged))
    task = Transcripts(str(run), WORLD)
    assert task.questions == [A, B, C] and drawn(task) == {A, B, C}
    assert task.held_out() == WORLD.held_out() and HELD not in {item.question for item in WORLD.held_out()}
    assert task.item(HELD) == WORLD.item(HELD) and task.holds_out(HELD) and task.judges
    item = task.item(A)
    assert item is not None and item.labels["families"] == "add" and right(A, task) == item.answer
    assert task.correct(item, item.answer) == 1.0 and task.correct(item, "?") == 0.0
    assert task.answer_in(" 7") == WORLD.answer_in(" 7")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [A, B, C]),
        ({"payoff_from": 1.0}, [B, C]),
        ({"payoff_from": 0.0, "payoff_to": 0.5}, [A, C]),
        ({"payoff_from": 1.0, "first_step": 3}, [C]),
        ({"most": 2}, [A, B]),
        ({"first_step": 2, "most": 1}, [B]),
    ],
)
def test_questions_of_some_turns(tmp_path: Path, options: dict[str, Any], expected: list[str]) -> None:
    """C failed once and passed once: it counts as both."""
    run = asked(tmp_path / "run", (1, 0, A), (2, 1, B), (2, 0, C), (3, 1, C), (3, -1, "what?"))
    assert Transcripts(str(run), WORLD, fewest=1, **options).questions == expected


def test_another_role_and_another_judge(tmp_path: Path) -> None:
    run = asked(tmp_path / "run", (1, 0, "3+4"), (1, 0, "70-2"), (2, 0, "7 or 8?"), role="chance")
    task = Transcripts(str(run), Arithmetic(), role="chance", fewest=1)
    known = [q for q in ("3+4", "70-2") if not Arithmetic().holds_out(q)]
    assert task.questions == known and len(known) > 0
    rows = [{"question": q, "answer": "1"} for q in ("3+4", "70-2", "x")]
    judge = Records(rows, held_out_rows=[rows[2], rows[1]], most=1)  # of which only the first is asked in evaluations
    assert Transcripts(str(run), judge, role="chance", fewest=1).questions == ["3+4"]


def test_what_is_held_out_of_an_arithmetic_task_does_not_depend_on_the_wording() -> None:
    task = Arithmetic()
    for item in task.held_out()[:30]:
        assert task.holds_out(item.question) and task.holds_out(f"Please tell me: {item.question}")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SelfplayError, match=rf"task\.path is '{folder}', which is not the folder of a run"):
            Transcripts(str(folder), WORLD)


def test_a_run_that_is_under_way(tmp_path: Path) -> None:
    run = asked(tmp_path / "run", (1, 0, A), (1, 0, B), status="running")
    with pytest.raises(SelfplayError, match=r"is not finished \(its status is 'running'\).*resume="):
        Transcripts(str(run), WORLD)


def test_a_run_without_the_role(tmp_path: Path) -> None:
    run = asked(tmp_path / "run", (1, 0, A), (1, 0, B))
    with pytest.raises(SelfplayError, match=r"no turn of the role 'asker' \(its roles: challenger, solver\); change"):
        Transcripts(str(run), WORLD, role="asker")


def test_too_few_questions(tmp_path: Path) -> None:
    run = asked(tmp_path / "run", (1, 0, A), (1, 0, A), (1, 0, HELD), (1, 0, "what?"), (2, 9, B))
    told = (
        r"1 questions are left of 5 turns of the role 'challenger' .*\(3 different texts within the limits of payoff "
        r"and step, 2 of them questions of TinyWorld, 1 of these held out\), but task\.fewest is 2"
    )
    with pytest.raises(SelfplayError, match=told):
        Transcripts(str(run), WORLD, payoff_to=1.0)


def test_a_damaged_transcript_is_told(tmp_path: Path) -> None:
    run = asked(tmp_path / "run", (1, 0, A), (1, 0, B))
    (run / "episodes.jsonl").write_text('{"step": 1, "role": "challenger", "reply": 7, "payoff": 0}\n')
    with pytest.raises(SelfplayError, match=r"line 1 of .*episodes\.jsonl has no reply with a payoff"):
        Transcripts(str(run), WORLD)


def test_found_questions_are_learnt(tmp_path: Path) -> None:
    """What a Challenger was paid for becomes the data of supervised learning."""
    small = ("episodes=6", "steps=1", "player.max_tokens=24", "eval=none")
    run = cli.finished(
        tmp_path / "asked", "game=lsp_zero", "challenger=reverse_gen", "reward=verifier", "seats.solver=reference",
        "update=dpo", "~update.role_weights.solver", "game.answers=1", *small,
    )  # fmt: skip
    paid = {line["reply"] for line in cli.lines(run / "episodes.jsonl") if line["role"] == "challenger"}
    taught = cli.finished(
        tmp_path / "taught", "game=demonstrations", "game.answers=0", "~seats.solver", "reward=none", "update=sft",
        "task=transcripts", f"task.path={run}", "task.payoff_from=0", "task.fewest=1", "task.judge.per_cell=1", *small,
    )  # fmt: skip
    turns = cli.lines(taught / "episodes.jsonl")
    questions = {line["reply"] for line in turns if line["role"] == "chance"}
    assert questions and questions <= paid
    for chance, teacher in zip(turns[::2], turns[1::2], strict=True):
        item = WORLD.item(chance["reply"])
        assert item is not None and teacher["reply"] == item.answer
