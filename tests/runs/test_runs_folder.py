"""What a run leaves on disk: config, metrics, transcripts, summary."""

import json
import math
import os
import re
from pathlib import Path
from typing import Self

import pytest
import torch
from omegaconf import OmegaConf
from toys import Killed, episodes, read

from selfplay.core import Ask, Episode, Reply, SelfplayError, Turn
from selfplay.runs import RunFolder


def test_config_is_resolved_and_comes_back_without_versions(run: RunFolder) -> None:
    assert RunFolder.open(run.path).config == {"seed": 3, "game": {"seed": 3, "answers": 4}, "steps": 9}
    assert "${" not in (run.path / "config.yaml").read_text()
    versions = OmegaConf.select(OmegaConf.load(run.path / "config.yaml"), "versions")
    assert set(versions) == {"python", "torch", "transformers", "selfplay", "commit", "threads"}
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["commit"] is None or re.fullmatch("[0-9a-f]{40}", versions["commit"])
    assert os.listdir(run.path) == ["config.yaml"]


def test_a_folder_is_never_used_for_two_runs(run: RunFolder) -> None:
    with pytest.raises(SelfplayError, match=r"already holds a run; resume that run, or choose another folder"):
        RunFolder.create(run.path, OmegaConf.create({}))
    assert run.config["steps"] == 9


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"nowhere is not a run folder \(it does not exist\)"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(SelfplayError, match=r"is not a run folder \(it has no config.yaml\)"):
        RunFolder.open(tmp_path)


def test_metrics_come_back_and_a_torn_last_line_does_not(run: RunFolder) -> None:
    assert run.metrics() == []
    run.log(1, {"solver/reward": 0.5, "eval": {"accuracy": 0.25, "interval": [0.0, 1.0]}})
    run.log(2, {"solver/reward": 0.75})
    expected = [
        {"step": 1, "solver/reward": 0.5, "eval": {"accuracy": 0.25, "interval": [0.0, 1.0]}},
        {"step": 2, "solver/reward": 0.75},
    ]
    assert run.metrics() == expected
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "solver/rew')
    assert run.metrics() == expected


def test_a_broken_line_amid_whole_ones_is_an_error(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(SelfplayError, match=r"line 2 of .*metrics.jsonl is not JSON"):
        run.metrics()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(run: RunFolder, value: float) -> None:
    with pytest.raises(SelfplayError, match=rf"'solver/kl' is {value} at step 5"):
        run.log(5, {"logprob_mismatch": 0.0, "solver/kl": value})
    with pytest.raises(SelfplayError, match=r"'eval.interval\[1\]'"):
        run.log(5, {"eval": {"interval": [0.0, value]}})
    with pytest.raises(SelfplayError, match=r"'after.accuracy'"):
        run.summarise({"after": {"accuracy": value}})
    unpaid = Episode(0, [Turn(Ask("solver"), Reply("4"), payoff=value)])
    with pytest.raises(SelfplayError, match=r"'payoff' is .* at step 5, which episodes.jsonl cannot store"):
        run.transcribe(5, [*episodes(), unpaid])
    assert os.listdir(run.path) == ["config.yaml"]


def test_transcripts_hold_one_line_a_turn(run: RunFolder) -> None:
    played = episodes()
    played[0].turns[1].player = "learner"
    run.transcribe(4, played, {id(played[0].turns[1]): 0.125})
    first, second = read(run.path / "episodes.jsonl")
    assert first["player"] is None and first["advantage"] is None and first["group"] is None
    assert second == {
        "step": 4,
        "episode": 7,
        "role": "solver",
        "player": "learner",
        "group": "(0, 'a')",
        "prompt": "2+2?\nnow",
        "reply": "4\u2028é",
        "scores": {"reward": 1.0},
        "payoff": 0.5,
        "advantage": 0.125,
    }


def test_a_step_is_one_write(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything of the step ahead of the only write, a kill can tear no more than one line."""
    long = Episode(0, [Turn(Ask("solver"), Reply("x" * 5000), payoff=0.0) for _ in range(20)])
    writes: list[int] = []

    class Spy:
        def __init__(self, path: Path) -> None:
            self.name = path.name

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> None:
            writes.append(data.count(b"\n"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_, **__: Spy(path))
        run.transcribe(1, [long])
    assert writes == [20]


def test_rewind_forgets_later_steps_and_torn_lines(run: RunFolder) -> None:
    run.rewind(0)
    assert os.listdir(run.path) == ["config.yaml"]
    for step in (1, 2, 3):
        run.log(step, {"logprob_mismatch": 0.0})
        run.transcribe(step, episodes())
    for name in ("metrics.jsonl", "episodes.jsonl"):
        with (run.path / name).open("a") as file:
            file.write('{"step": 2, "')
    run.rewind(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert [line["step"] for line in read(run.path / "episodes.jsonl")] == [1, 1, 2, 2]
    run.log(3, {"logprob_mismatch": 1.0})
    assert run.metrics()[2] == {"step": 3, "logprob_mismatch": 1.0}
    assert sorted(os.listdir(run.path)) == ["config.yaml", "episodes.jsonl", "metrics.jsonl"]


def test_a_kill_while_rewinding_or_summarising_changes_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.log(1, {"logprob_mismatch": 0.0})
    run.log(2, {"logprob_mismatch": 0.0})
    run.summarise({"status": "running"})

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(Killed):
        run.rewind(1)
    with pytest.raises(Killed):
        run.summarise({"status": "done"})
    assert len(run.metrics()) == 2
    assert json.loads((run.path / "summary.json").read_text()) == {"status": "running"}
