"""Which rules cycle and which arrive, through the whole program, on games whose equilibria are known.

The experiments are those of experiments/small_games; without sampling noise their numbers are the same on every machine
but for rounding.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import cli
import pytest


def evals(experiment: str, folder: Path, *args: str) -> list[dict[str, Any]]:
    """A run's evaluations, the untouched policy's first."""
    run = cli.finished(folder, f"experiment={experiment}", *args)
    return [line["eval"] for line in cli.metrics(run) if "eval" in line]


def favourite(strategy: dict[str, dict[str, float]], role: str) -> str:
    [p] = [p for state, p in strategy.items() if state.startswith(f"{role}:")]
    return max(p, key=lambda action: p[action])


def test_the_latest_self_cycles_outwards(tmp_path: Path) -> None:
    found = evals("rps_latest", tmp_path / "run")
    for role in ("row", "column"):
        last = [favourite(line["strategy"], role) for line in found[-100:]]
        changes = [b for a, b in pairwise(last) if a != b]
        assert set(changes) == {"rock", "paper", "scissors"}  # round and round
        following = dict(pairwise(changes))
        assert all(following.get(a, b) == b for a, b in pairwise(changes))  # always the same way
    assert found[0]["nash_conv"] < 0.6
    assert min(line["nash_conv"] for line in found[-50:]) > 1.0


@pytest.mark.parametrize(
    ("experiment", "key", "more"),
    [
        ("rps_fictitious", "mixture_nash_conv", ["steps=150"]),  # a step costs in proportion to the past selves
        ("rps_magnet", "nash_conv", []),
        ("rps_psro", "mixture_nash_conv", []),
    ],
)
def test_what_arrives_at_the_equilibrium(experiment: str, key: str, more: list[str], tmp_path: Path) -> None:
    found = evals(experiment, tmp_path / "run", "eval.every=50", *more)
    assert found[0][key] > 0.5
    assert found[-1][key] < 0.01


def test_self_play_solves_kuhn_poker(tmp_path: Path) -> None:
    found = evals("kuhn_magnet", tmp_path / "run", "eval.every=100")
    assert found[0]["nash_conv"] == pytest.approx(11 / 12)  # uniform play
    assert found[-1]["nash_conv"] < 0.01
    assert found[-1]["returns"]["first"] == pytest.approx(-1 / 18, abs=0.005)  # the value of the game


def test_psro_arrives_in_a_game_of_general_sum(tmp_path: Path) -> None:
    """Chicken: nobody's mixture is stable but 9 of 10 who swerve, and the base alone is far from it."""
    slower = ("steps=80", "update.optimizer.lr=2")
    found = evals("rps_psro", tmp_path / "run", "game.name=chicken", "eval.every=20", *slower)
    assert found[0]["mixture_nash_conv"] > 4.0
    assert found[-1]["mixture_nash_conv"] < 0.05
