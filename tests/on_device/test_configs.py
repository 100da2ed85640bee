"""Every experiment, player and reward that needs no hub runs a step on another device; a run resumes there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli
import configs
import pytest
from omegaconf import OmegaConf

DEVICE = os.environ["DEVICE"]


def placed(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every model of an unresolved config that lies on the run's device: the key of its path, and its path."""
    if isinstance(node, dict):
        if node.get("device") == "${device}":
            yield f"{where}.path".lstrip("."), str(node["path"])
        for key, value in node.items():
            yield from placed(value, f"{where}.{key}")


def touches_the_device(choice: str) -> bool:
    """Whether a run of the choice has a model there, beyond the player that every run of a reward has."""
    told = (cli.CONF / f"{choice.replace('=', '/')}.yaml").read_text()
    if choice.startswith("reward="):
        return any(word in told for word in ("device", "selfjudge", ".RewardModel", "  - "))
    return "tabular" not in choice + told


CHOICES = [choice for choice in cli.choices("experiment", "player", "reward") if touches_the_device(choice)]


def on_device(args: list[str], shallow: dict[str, Path]) -> list[str]:
    """The arguments of a run on the device, with shallow models in place of the embedded ones."""
    models = placed(OmegaConf.to_container(configs.config(*args)))
    return [*args, f"device={DEVICE}", *(f"++{where}={shallow[path]}" for where, path in models if path in shallow)]


@pytest.fixture(autouse=True)
def without_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials take half of such a run; test_players.py has those of every kind of player."""
    for module in ("llama.layers", "llama.trial", "masked"):
        monkeypatch.setattr(f"selfplay.engines.{module}.passes", lambda *_: True)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_step(choice: str, shallow: dict[str, Path], tmp_path: Path) -> None:
    small = cli.shrunk(choice)
    further = [f"~extra_evals.{name}" for name in configs.config(*small).extra_evals]
    args = on_device([*small, "eval=none", "stop.metric=null", *further], shallow)
    *_, last = cli.lines(cli.finished(tmp_path / "run", *args) / "metrics.jsonl")
    assert (
        last["step"] == 1 and last["logprob_mismatch"] < 0.3
    )  # in bfloat16; the run itself compares it with the rounding


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_a_run_resumes(player: str, shallow: dict[str, Path], tmp_path: Path) -> None:
    args = on_device([*cli.SMALL, f"player={player}"], shallow)
    whole = cli.finished(tmp_path / "whole", *args)
    half = cli.finished(tmp_path / "half", *args, "steps=1")
    cli.finished(half, f"resume={half}", "steps=2")
    for one, other in zip(cli.metrics(whole), cli.metrics(half), strict=True):
        assert one == (other if DEVICE == "pretend" else pytest.approx(other, rel=1e-3, abs=1e-3))
