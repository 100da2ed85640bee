"""Accuracy behind examples, of a player whose skill is known, and the gate before a run."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cli
import pytest

from selfplay.core import Ask, Player, Reply, SelfplayError
from selfplay.evaluations.few_shot import FewShot
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.task import demonstration

TASK = Arithmetic(levels=[1], per_level=20)


class Pupil(Player):
    """Right on every second question without examples, and on all but every fifth behind them."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def with_temperature(self, temperature: float) -> Player:
        assert temperature == 0
        return self

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asked += asks
        return [
            Reply(demonstration(ask.prompt, TASK) if i % (5 if len(ask.messages) > 1 else 2) else "no")
            for i, ask in enumerate(asks)
        ]


def experiment(player: Player) -> Any:
    return SimpleNamespace(opponent=SimpleNamespace(main=player), players={"reference": player})


def test_both_accuracies_and_their_difference() -> None:
    pupil = Pupil()
    found = FewShot(TASK, shots=2, least=0.3)(experiment(pupil))
    assert found["accuracy"] == 0.5 and found["few_shot"] == 0.8 and found["few_shot_gain"] == pytest.approx(0.3)
    low, high = found["few_shot_gain_interval"]  # type: ignore[misc]
    assert low < 0.3 < high
    behind = [ask for ask in pupil.asked if len(ask.messages) == 5][:20]
    held_out = {item.question for item in TASK.held_out()}
    assert {ask.prompt for ask in behind} == held_out
    shown = {ask.messages[i]["content"] for ask in behind for i in (0, 2)}
    assert not shown & held_out and all(ask.messages[1]["content"] for ask in behind)


def test_the_gate() -> None:
    sentence = "2 examples change the accuracy of the model from 50.0% to 80.0%, which is less than eval.least=\\+31.0%"
    with pytest.raises(SelfplayError, match=sentence):
        FewShot(TASK, shots=2, least=0.31)(experiment(Pupil()))


def test_a_model_that_does_not_learn_from_examples_is_refused(tmp_path: Path) -> None:
    """The embedded model: it was never trained on examples in the prompt."""
    args = ("game=few_shot", "eval=few_shot", "task.per_cell=1", "steps=1", "episodes=2")
    ended = cli.run(*args, "eval.least=0.05", f"hydra.run.dir={tmp_path / 'gate'}")
    assert ended.code == 1 and "so there is nothing to distil; take a model that learns from examples" in ended.err
    run = cli.finished(tmp_path / "run", *args)
    assert cli.metrics(run)[-1]["eval"]["few_shot_gain"] < 0


def test_the_embedded_model_of_soft_passes_the_gate_of_its_experiment(tmp_path: Path) -> None:
    """`asset:tiny-shots` was taught to learn from examples; `asset:tiny` in its place is refused by name."""
    args = ("experiment=soft", "steps=0", "task.per_cell=2", "stop.metric=null")
    run = cli.finished(tmp_path / "run", *args)
    assert cli.metrics(run)[0]["eval"]["few_shot_gain"] >= 0.05
    ended = cli.run(*args, "player.path=asset:tiny", f"hydra.run.dir={tmp_path / 'gate'}")
    assert ended.code == 1 and "which is less than eval.least=+5.0%, so there is nothing to distil" in ended.err
