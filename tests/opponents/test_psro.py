"""A run with a population, a magnet or a baseline that is stopped and resumed equals one that never stopped."""

import shutil
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from safetensors.torch import load_file

import selfplay.enumeration

TABULAR = ("game=kuhn", "player=tabular", "episodes=16", "steps=4")
PSRO = (*TABULAR, "opponent=psro", "opponent.exact=true", "opponent.every=1", "eval.every=2")
LM = ("game=kuhn", "eval=none", "episodes=6", "steps=3", "opponent=uniform", "opponent.every=1")
LORA = ("player=tiny_lora", "player.lora.r=4")
KILL = """
import os, runpy, signal, sys
sys.argv[0] = {run!r}
from selfplay.opponents.league import League
def die(self, folder, store=League.store):
    store(self, folder)
    if "step-000003" in self.population:
        os.kill(os.getpid(), signal.SIGKILL)
League.store = die
runpy.run_path({run!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def psro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a stop."""
    return cli.finished(tmp_path_factory.mktemp("psro") / "whole", *PSRO)


def files(folder: Path) -> dict[str, Any]:
    """Bytes; of a checkpoint's state what it holds, as equal texts of it may be one object or two."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): held(torch.load(p)) if p.suffix == ".pt" else p.read_bytes() for p in found}


def held(state: Any) -> Any:
    """Nested plain values, to be compared by ==."""
    if isinstance(state, dict):
        return [(key, held(value)) for key, value in state.items()]
    if isinstance(state, list | tuple):
        return [held(value) for value in state]
    return (str(state.dtype), state.tolist()) if isinstance(state, torch.Tensor) else state


def assert_same(run: Path, other: Path) -> None:
    """All that is written but the clock: metrics, transcripts, population, checkpoints (weights, optimizer, table)."""
    assert cli.metrics(run) == cli.metrics(other)
    assert cli.summary(run) == cli.summary(other)
    assert (run / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()
    for part in ("population", "checkpoints"):
        found, right = files(run / part), files(other / part)
        assert sorted(found) == sorted(right)
        for name in right:
            if name.endswith("SHA256SUMS"):  # of state.pt, too, whose bytes may differ where its values do not
                continue
            assert found[name] == right[name], f"{part}/{name}"


def stopped(folder: Path, step: int, *args: str) -> Path:
    """A run that is interrupted while it plays a step."""
    played = selfplay.enumeration.play

    def interrupted(*args: Any, key: str, **rest: Any) -> object:
        if key.endswith(f"/{step}"):
            raise KeyboardInterrupt
        return played(*args, key=key, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selfplay.enumeration, "play", interrupted)
        ended = cli.run(f"hydra.run.dir={folder}", *args)
    assert ended.code == 130 and f"after step {step - 1};" in ended.out, ended.err
    return folder


def resumed(folder: Path, *args: str) -> Path:
    ended = cli.run(f"resume={folder}", *args)
    assert ended.code == 0, ended.err
    return folder


def check(tmp_path: Path, *args: str, step: int = 3) -> Path:
    whole = cli.finished(tmp_path / "whole", *args)
    assert_same(resumed(stopped(tmp_path / "stopped", step, *args)), whole)
    return whole


def test_psro_killed_between_population_and_checkpoint(psro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    ended = cli.process(f"hydra.run.dir={folder}", *PSRO, script=KILL.format(run=str(cli.ROOT / "run.py")))
    assert ended.code == -9, ended.err
    assert cli.steps(folder) == ["step-000001", "step-000002"]
    assert (folder / "population" / "step-000003").is_dir()  # the checkpoint does not know it yet
    assert_same(resumed(folder), psro)
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize("step", [1, 2, 4])
def test_psro_interrupted(psro: Path, tmp_path: Path, step: int) -> None:
    assert_same(resumed(stopped(tmp_path / "stopped", step, *PSRO)), psro)


def test_psro_of_three_is_psro_of_four(psro: Path, tmp_path: Path) -> None:
    folder = cli.finished(tmp_path / "run", *PSRO, "steps=3", "eval.every=4")
    resumed(folder, "steps=4")
    assert cli.metrics(folder)[-1] == cli.metrics(psro)[-1]
    assert files(folder / "population") == files(psro / "population")


def test_what_a_psro_run_writes(psro: Path) -> None:
    """Every member has a folder and weights of its own; the mixture is over the members."""
    members = [f"step-{i:06d}" for i in range(1, 5)]
    assert sorted(p.name for p in (psro / "population").iterdir()) == members
    tables = [(psro / "population" / name / "table.safetensors").read_bytes() for name in members]
    assert len(set(tables)) == 4
    first, *_, last = cli.metrics(psro)
    assert first["eval"]["mixture"] == {"step-000000": 1.0}
    assert first["eval"]["mixture_nash_conv"] == first["eval"]["nash_conv"] == pytest.approx(11 / 12)
    assert set(last["eval"]["mixture"]) <= {"step-000000", *members}
    assert sum(last["eval"]["mixture"].values()) == pytest.approx(1.0)
    assert last["eval"]["mixture_nash_conv"] not in (first["eval"]["nash_conv"], last["eval"]["nash_conv"])
    learner = load_file(psro / "checkpoints" / "step-000004" / "table.safetensors")["logits"]
    newest = load_file(psro / "population" / "step-000004" / "table.safetensors")["logits"]
    assert learner.equal(newest) and not learner.equal(learner * 0)


def test_a_lost_member_is_told(psro: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(psro, tmp_path / "copy")
    shutil.rmtree(folder / "population" / "step-000002")
    ended = cli.run(f"resume={folder}", "steps=5")
    assert ended.code == 1 and ended.err.count("\n") == 1
    assert f"{folder / 'population' / 'step-000002'}" in ended.err


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_league_resumes_in_every_phase(tmp_path: Path, step: int) -> None:
    """Steps 1, 2 and 5, 6 are an exploiter's; Adam's moments of the main learner wait in the checkpoint."""
    args = (*TABULAR, "opponent=league", "opponent.every=2", "opponent.exploit=2", "eval.every=3", "steps=7")
    check(tmp_path, *args, "update.optimizer._target_=torch.optim.Adam", step=step)


def test_more_steps_do_not_end_a_run_with_an_exploiter(tmp_path: Path) -> None:
    args = (*TABULAR, "opponent=league", "opponent.every=2", "opponent.exploit=1", "eval=none", "steps=3")
    folder = cli.finished(tmp_path / "run", *args)
    ended = cli.run(f"resume={folder}", "steps=4")
    assert ended.code == 1 and "steps=4 ends while an exploiter is training" in ended.err
    resumed(folder, "steps=5")
    assert cli.summary(folder)["steps"] == 5


def test_matches_resume(tmp_path: Path) -> None:
    check(tmp_path, *TABULAR, "opponent=pfsp", "opponent.every=1", "opponent.matches=5", "eval=none")


@pytest.mark.parametrize("args", [(), LORA], ids=["full", "lora"])
def test_a_language_models_population_resumes(tmp_path: Path, args: tuple[str, ...]) -> None:
    whole = check(tmp_path, *LM, *args)
    name = "adapter_model.safetensors" if args else "model.safetensors"
    weights = [(whole / "population" / f"step-{i:06d}" / name).read_bytes() for i in (1, 2, 3)]
    assert len(set(weights)) == 3
    assert {turn["player"] for turn in cli.lines(whole / "episodes.jsonl")} >= {"learner", "step-000000"}


def test_a_magnet_resumes(tmp_path: Path) -> None:
    """It moved at step 2: the distance to it, measured before the update, is none in step 3, and some in step 4."""
    args = (*TABULAR, "update.magnet_every=2", "regularizer.beta=0.5", "eval=none")
    whole = check(tmp_path, *args, step=4)
    far = [line["first/kl"] for line in cli.metrics(whole)]
    assert far[0] == pytest.approx(0.0, abs=1e-7) == far[2]
    assert far[1] > 1e-5 and far[3] > 1e-5
    assert (whole / "checkpoints" / "step-000004" / "magnet" / "table.safetensors").is_file()
    still = cli.metrics(cli.finished(tmp_path / "still", *args, "update.magnet_every=0"))
    assert still[2]["first/kl"] > 1e-5
    assert [line["loss"] for line in still[:2]] == [line["loss"] for line in cli.metrics(whole)[:2]]


@pytest.mark.parametrize("opponent", ["opponent.restart=true", "opponent.exploit=1"])
def test_a_magnet_is_its_own_learners(tmp_path: Path, opponent: str) -> None:
    """Who begins from the base begins with the base as its magnet; and main's magnet waits with main."""
    args = (*TABULAR, "opponent=uniform", "opponent.every=2", opponent, "update.magnet_every=1", "eval=none", "steps=6")
    for step in (2, 4, 5):
        whole = check(tmp_path / str(step), *args, step=step)
    far = [line["first/kl"] for line in cli.metrics(whole)]
    assert max(map(abs, far)) < 1e-7  # a magnet that moves with every step is where its learner is


def test_baselines_resume(tmp_path: Path) -> None:
    whole = check(tmp_path, *TABULAR, "update=spiral", "eval=none")
    paid = [line["first/payoff"] for line in cli.metrics(whole)]
    baseline = 0.0
    for line, mean in zip(cli.metrics(whole), paid, strict=True):
        turns = [t for t in cli.lines(whole / "episodes.jsonl") if (t["step"], t["role"]) == (line["step"], "first")]
        assert {round(t["payoff"] - t["advantage"], 5) for t in turns} == {round(baseline, 5)}
        baseline = 0.95 * baseline + 0.05 * mean
    assert baseline != 0
