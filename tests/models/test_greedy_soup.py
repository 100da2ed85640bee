"""Greedy soups: the rule by hand, and a command that keeps out a model that does harm."""

from collections.abc import Sequence
from pathlib import Path

import cli
import pytest
import torch
from configs import config
from safetensors.torch import load_file, save_file

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.greedy_soup import greedy, validation
from selfplay.soup import main


def test_the_rule_by_hand() -> None:
    """Best first: b; c and b are as good as b; a with both is worse; d raises it."""
    known = {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.4, "bc": 0.7, "bca": 0.69, "bcd": 0.8}
    asked: list[str] = []

    def accuracy(some: Sequence[str]) -> float:
        asked.append("".join(some))
        return known["".join(some)]

    assert greedy(["a", "b", "c", "d"], accuracy) == (["b", "c", "d"], 0.8)
    assert asked == ["a", "b", "c", "d", "bc", "bca", "bcd"]
    assert greedy(["x"], lambda some: 0.1) == (["x"], 0.1)
    assert greedy(["x", "y"], lambda some: 0.5)[0] == ["x", "y"], "ties are added, the first first"


def test_validation_questions_are_training_questions() -> None:
    task = make(config().task, "task")
    items, held_out = validation(task, 60), {item.question for item in task.held_out()}
    questions = {item.question for item in items}
    assert len(questions) == 60 and not questions & held_out
    assert [item.question for item in validation(task, 60)] == [item.question for item in items]
    assert all(task.correct(item, item.answer) == 1 for item in items)


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_a_model_that_does_harm_is_left_out(
    player: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one step, and a third whose weights are spoilt."""
    few = ("game=dataset", "reward=verifier", "eval=none", "steps=1", "episodes=2", "game.answers=2")
    runs = [cli.finished(tmp_path / "sweep" / str(s), *few, f"player={player}", f"seed={s}") for s in range(3)]
    [file] = (runs[1] / "checkpoints" / "step-000001").glob("*.safetensors")
    torch.manual_seed(0)
    save_file({name: torch.randn_like(value) for name, value in load_file(file).items()}, file, {"format": "pt"})
    (file.parent / "SHA256SUMS").unlink()
    main([*map(str, runs), "--out", str(tmp_path / "soup"), "--greedy", "40"])
    told = capsys.readouterr().out.splitlines()
    used = [line.removeprefix("0.5 ") for line in told if line.startswith("0.5 ")]
    assert sorted(used) == [str(run / "checkpoints" / "step-000001") for run in (runs[0], runs[2])]
    main([*used, "--out", str(tmp_path / "hand")])
    mine, hand = (load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("soup", "hand"))
    assert all(torch.equal(mine[name], hand[name]) for name in hand) and mine.keys() == hand.keys()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--greedy", "5", "--weights", "1"), "so --weights would have no effect"),
        (("--greedy", "0"), "--greedy is 0; give the number of validation questions"),
        (("--greedy", "5"), "--greedy reads player and task of a run, but"),
    ],
)
def test_what_makes_no_sense(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["asset:tiny", "--out", str(tmp_path / "soup"), *arguments])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()


def test_a_task_that_is_too_small_or_has_no_answers() -> None:
    task = make(config().task, "task")
    with pytest.raises(SelfplayError, match=r"--greedy is 3, but TinyWorld has only 1 questions"):
        task.__class__ = type("TinyWorld", (type(task),), {"draw": lambda self, rng: "add 3 and 4"})
        validation(task, 3)
    monkey = type("Mute", (), {"judges": False})()
    with pytest.raises(SelfplayError, match="--greedy needs answers, but Mute has none"):
        validation(monkey, 3)
