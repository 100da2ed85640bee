"""Answers in AlpacaEval's format."""

import json
from pathlib import Path
from typing import Any

import cli
import pandas as pd
import pytest

from selfplay.export_alpaca_eval import main

QUESTIONS = [
    {"dataset": "helpful_base", "instruction": "add 3 and 4", "output": "somebody else's", "generator": "gpt4"},
    {"instruction": "sort cab é"},
]


def exported(tmp_path: Path, model: str, *args: str) -> list[dict[str, Any]]:
    questions, out = tmp_path / "questions.json", tmp_path / "outputs.json"
    questions.write_text(json.dumps(QUESTIONS))
    main([model, "--questions", str(questions), "--out", str(out), *args])
    written = json.loads(out.read_text())
    assert set(pd.read_json(out).columns) >= {"instruction", "output", "generator"}, "as alpaca_eval reads it"
    return list(written)


def test_a_model_by_name(tmp_path: Path) -> None:
    first, second = exported(tmp_path, "asset:tiny", "--max-tokens", "24")
    assert first == {"instruction": "add 3 and 4", "output": "7", "generator": "asset:tiny", "dataset": "helpful_base"}
    assert (
        set(second) == {"instruction", "output", "generator"} and second["instruction"] == QUESTIONS[1]["instruction"]
    )


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_the_last_checkpoint_of_a_run(player: str, tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", f"player={player}", *cli.SMALL, "update.optimizer.lr=0.01")
    mine = exported(tmp_path, str(run), "--generator", "mine", "--temperature", "0.01")
    assert {row["generator"] for row in mine} == {"mine"}
    from selfplay.runs.folder import RunFolder
    from selfplay.runs.players import Choice, policies

    [policy] = policies(RunFolder.open(run), "", Choice(last=True, base=False))[1].values()
    from selfplay.evaluations.answers import answers

    assert [row["output"] for row in mine] == answers(
        policy.with_temperature(0.01), [q["instruction"] for q in QUESTIONS], "alpaca_eval"
    )
    assert mine == exported(tmp_path, str(run), "--generator", "mine", "--temperature", "0.01")


@pytest.mark.parametrize(
    ("content", "args", "message"),
    [
        ("[]", (), "has no questions"),
        ('[{"question": "x"}]', (), "question 1 of .* has no instruction .its fields: question."),
        ("[{]", (), "is not JSON"),
        (json.dumps(QUESTIONS), ("--temperature", "-1"), "--temperature is -1"),
        (json.dumps(QUESTIONS), ("--out", "nowhere/x.json"), "the folder of nowhere/x.json does not exist"),
    ],
)
def test_mistakes(
    content: str, args: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.json").write_text(content)
    given = ["asset:tiny", "--questions", str(tmp_path / "q.json"), "--out", str(tmp_path / "o.json"), *args]
    with pytest.raises(SystemExit) as ended:
        main(given)
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.startswith("error: ") and told.count("\n") == 1
    import re

    assert re.search(message, told) and not (tmp_path / "o.json").exists()
