"""Learning-rate schedules: numbers by hand, and that the optimizer gets them, before and after a resume."""

from pathlib import Path

import cli
import pytest

from selfplay.core import SelfplayError
from selfplay.updates.schedules import constant, cosine, harmonic, linear

SMALL = ("game=kuhn", "player=tabular", "episodes=4", "eval=none", "optimized_metric=loss")


def test_by_hand() -> None:
    assert [constant(s) for s in (1, 9)] == [1.0, 1.0]
    assert [linear(s, steps=4, warmup=0) for s in (1, 2, 3, 4, 5, 6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [linear(s, steps=6, warmup=2) for s in (1, 2, 3, 4, 5, 6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [cosine(s, steps=4, warmup=0) for s in (1, 3, 5)] == pytest.approx([1.0, 0.5, 0.0])
    assert cosine(1, steps=6, warmup=2) == 0.5
    assert [harmonic(s, half=10) for s in (1, 11, 31)] == [1.0, 0.5, 0.25]


def test_what_is_no_schedule_is_refused() -> None:
    for call in (lambda: linear(1, 4, 4), lambda: cosine(1, 4, -1), lambda: harmonic(1, 0.0)):
        with pytest.raises(SelfplayError, match=r"schedule\.\w+ is -?\d"):
            call()
    ended = cli.run(*SMALL, "steps=2", "schedule=linear", "schedule.warmup=2")
    assert ended.code == 1 and "schedule.warmup is 2, but there are only 2 steps" in ended.err


def test_the_optimizer_follows_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    args = (*SMALL, "schedule=linear", "update.optimizer.lr=8")
    rates = [line["learning_rate"] for line in cli.metrics(cli.finished(tmp_path / "a", *args, "steps=4"))]
    assert rates == [8.0, 6.0, 4.0, 2.0]
    cli.finished(tmp_path / "b", *args, "steps=2")
    assert cli.run(f"resume={tmp_path / 'b'}", "steps=4").code == 0
    rates = [line["learning_rate"] for line in cli.metrics(tmp_path / "b")]
    assert rates == [8.0, 4.0, 4.0, 2.0]  # two steps of two, then steps 3 and 4 of four


def test_a_smaller_rate_moves_less(tmp_path: Path) -> None:
    one = cli.metrics(cli.finished(tmp_path / "one", *SMALL, "steps=3"))
    two = cli.metrics(cli.finished(tmp_path / "two", *SMALL, "steps=3", "schedule=harmonic", "schedule.half=1e-9"))
    assert one[1]["loss"] == two[1]["loss"]  # the first step is the same
    assert one[2]["loss"] != two[2]["loss"]
