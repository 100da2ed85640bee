"""A run that is stopped at any instant and resumed equals one that never stopped, bit for bit."""

import json
import shutil
from pathlib import Path

import cli
import kill_runs
import pytest
from omegaconf import OmegaConf

import selfplay.enumeration
from selfplay.runs.start import SERVERS

ARGS = ("reward=verifier", "episodes=2", "game.answers=2", "steps=4", "player.max_tokens=12")
EVAL = ("eval=heldout", "task.per_cell=1", "eval.every=2")
LORA = ("player=tiny_lora", "eval=none")

AT_CHECKPOINT = """
from selfplay.runs import checkpoint
def die(state, file, write=checkpoint._write_state):
    write(state, file)
    if file.parent.name.endswith("step-000003"):
        file.write_bytes(file.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint._write_state = die
"""
AT_TRANSCRIPT = """
from selfplay.runs import folder
def die(path, records, append=folder.append):
    append(path, records)
    if path.name == "episodes.jsonl" and records[0]["step"] == 3:
        os.truncate(path, path.stat().st_size - 30)
        os.kill(os.getpid(), signal.SIGKILL)
folder.append = die
"""
RUN = "import os, runpy, signal, sys\nsys.argv[0] = {run!r}\n{patch}\nrunpy.run_path({run!r}, run_name='__main__')"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps without a stop."""
    return cli.finished(tmp_path_factory.mktemp("resume") / "whole", *ARGS, *EVAL)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def assert_same(run: Path, other: Path) -> None:
    """Weights, optimizer, every metric but the clock's, every transcript, the summary."""
    assert cli.metrics(run) == cli.metrics(other)
    assert (run / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()
    assert cli.summary(run) == cli.summary(other)
    last = cli.steps(other)[-1]
    assert cli.steps(run)[-1] == last
    files = sorted(path.name for path in (other / "checkpoints" / last).iterdir())
    assert {"model.safetensors", "state.pt"} <= set(files) or {"adapter_model.safetensors", "state.pt"} <= set(files)
    for name in files:
        assert (run / "checkpoints" / last / name).read_bytes() == (other / "checkpoints" / last / name).read_bytes()


def resumed(folder: Path, *args: str) -> cli.Ended:
    ended = cli.run(f"resume={folder}", *args)
    assert ended.code == 0, ended.err
    return ended


@pytest.mark.parametrize("patch", [AT_CHECKPOINT, AT_TRANSCRIPT], ids=["checkpoint", "transcript"])
def test_killed_and_resumed_equals_whole(whole: Path, tmp_path: Path, patch: str) -> None:
    folder = tmp_path / "killed"
    script = RUN.format(run=str(cli.ROOT / "run.py"), patch=patch)
    ended = cli.process(f"hydra.run.dir={folder}", *ARGS, *EVAL, script=script)
    assert ended.code == -9, ended.err
    assert cli.summary(folder)["status"] == "running"
    half = {".writing-step-000003"} if patch == AT_CHECKPOINT else set()
    assert set(cli.steps(folder)) == {"step-000001", "step-000002"} | half
    assert (folder / "episodes.jsonl").read_bytes().endswith(b"\n") == (patch == AT_CHECKPOINT)
    assert "after step 2" in resumed(folder).out
    assert_same(folder, whole)
    assert not list(folder.rglob(".*"))


def test_the_same_seed_twice_is_the_same_and_another_is_not(whole: Path, tmp_path: Path) -> None:
    assert_same(cli.finished(tmp_path / "again", *ARGS, *EVAL), whole)
    other = cli.finished(tmp_path / "other", *ARGS, "eval=none", "steps=1", "seed=1")
    said = [[turn["reply"] for turn in cli.lines(run / "episodes.jsonl")[:6]] for run in (whole, other)]
    assert sum(a == b for a, b in zip(*said, strict=True)) < 3


def test_learner_and_sampler_agree_at_every_step(whole: Path) -> None:
    trained = [line for line in cli.metrics(whole) if line["step"] > 0]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all(line["logprob_mismatch"] < 1e-4 for line in trained)
    assert trained[-1]["solver/kl"] > 1e-8, "the weights never moved"


def test_interrupted_lora_resumes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli.finished(tmp_path / "whole", *ARGS, *LORA)
    play = selfplay.enumeration.play

    def interrupted(*args: object, key: str, **seats: object) -> object:
        if key.endswith("/3"):
            raise KeyboardInterrupt
        return play(*args, key=key, **seats)  # type: ignore[arg-type]

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(selfplay.enumeration, "play", interrupted)
        ended = cli.run(f"hydra.run.dir={folder}", *ARGS, *LORA)
    assert (ended.code, ended.err) == (130, "")
    assert f"interrupted after step 2; resume with: python run.py resume={folder}" in ended.out
    assert cli.summary(folder) | {"tokens": 0} == {"status": "interrupted", "steps": 2, "tokens": 0}
    resumed(folder)
    assert_same(folder, whole)
    first, last = (folder / "checkpoints" / step / "adapter_model.safetensors" for step in cli.steps(folder))
    assert first.read_bytes() != last.read_bytes()


def test_an_interrupt_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selfplay.evaluations.held_out.HeldOut.__call__", interrupted)
        ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *ARGS, *EVAL, "steps=1")
    assert (ended.code, ended.err) == (130, "")
    assert cli.summary(tmp_path / "run") == {"status": "interrupted", "steps": 0, "tokens": 0}
    resumed(tmp_path / "run")
    assert [line["step"] for line in cli.metrics(tmp_path / "run")] == [0, 1]


def test_more_steps_extend_the_run(copy: Path, tmp_path: Path) -> None:
    straight = cli.finished(tmp_path / "straight", *ARGS, *EVAL, "steps=6")
    resumed(copy, "steps=6")
    assert_same(copy, straight)
    config = OmegaConf.load(copy / "config.yaml")
    assert config.steps == 6 and config.overrides[-2:] == [f"resume={copy}", "steps=6"]
    assert "steps=4" in config.overrides


def test_without_its_newest_checkpoint_it_goes_on_from_the_one_before(whole: Path, copy: Path) -> None:
    assert cli.steps(copy) == ["step-000003", "step-000004"]
    shutil.rmtree(copy / "checkpoints" / "step-000004")
    assert "after step 3" in resumed(copy).out
    assert_same(copy, whole)


def test_a_finished_run_has_nothing_left_to_do(whole: Path, copy: Path) -> None:
    resumed(copy)
    assert_same(copy, whole)


def test_the_device_may_change_and_players_follow(copy: Path) -> None:
    assert OmegaConf.load(copy / "config.yaml").player.device == "cpu"
    resumed(copy, "device=cpu:0", "steps=5")
    config = OmegaConf.load(copy / "config.yaml")
    assert (config.device, config.player.device) == ("cpu:0", "cpu:0")
    assert cli.metrics(copy)[-1]["step"] == 5


def test_where_the_servers_are_may_change_and_players_follow(copy: Path) -> None:
    """`engine=server` is typed so that its options can be; everything else of the run stays."""
    config = OmegaConf.load(copy / "config.yaml")
    engine = {"_target_": SERVERS["engine"][0], "urls": ["http://127.0.0.1:9"], "adapters": 4, "seconds": 600.0}
    config.engine, config.player.engine = engine, engine
    OmegaConf.save(config, copy / "config.yaml")
    moved = ("engine=server", "engine.urls=[http://127.0.0.1:8,http://127.0.0.1:7]", "engine.transfer=nccl")
    assert "has already done 4" in cli.run(f"resume={copy}", *moved, "steps=3").err
    ended = cli.run(f"resume={copy}", *moved, "steps=5")
    assert "the learner's are on 'cpu'" in ended.err, "the transfer is the new one"
    found = OmegaConf.load(copy / "config.yaml")
    urls = ["http://127.0.0.1:8", "http://127.0.0.1:7"]
    assert found.engine == found.player.engine == {**engine, "urls": urls, "transfer": "nccl"}


def test_where_the_reward_model_s_server_is_may_change(copy: Path) -> None:
    """tests/referees/test_rm_server.py resumes such a run; here nobody listens."""
    config = OmegaConf.load(copy / "config.yaml")
    config.reward = OmegaConf.load(cli.CONF / "reward" / "rm_server.yaml")
    OmegaConf.save(config, copy / "config.yaml")
    moved = (f"resume={copy}", "reward=rm_server", "reward.url=http://127.0.0.1:9", "steps=5")
    assert "the server http://127.0.0.1:9 does not answer" in cli.run(*moved, "reward.timeout=2").err
    assert "'reward.truncate=false' would change it" in cli.run(*moved, "reward.truncate=false").err


REFUSED = {
    "reward=rm": "'reward=rm' would change it",
    "reward.batch_size=3": "'reward.batch_size=3' would change it",
    "reward=rm_server": "'reward=rm_server' would change it",
    "engine=server": "'engine=server' would change it",
    "+engine.urls=[http://a:1]": "engine.urls=[http://a:1]' would change it",
    "reward=selfjudge": "'reward=selfjudge' would change it",
    "game.answers=3": "'game.answers=3' would change it",
    "seed=1": "'seed=1' would change it",
    "steps=3": "has already done 4; give more steps, for example steps=8",
    "checkpoint.every=0": "checkpoint.every is 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_a_resumed_run_refuses(copy: Path, override: str) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    ended = cli.run(f"resume={copy}", override)
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1
    assert REFUSED[override] in ended.err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_the_metrics_are_those_of_one_run(copy: Path) -> None:
    resumed(copy, "steps=5")
    written = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [0, 1, 2, 3, 4, 5]
    assert cli.summary(copy)["tokens"] == sum(line.get("tokens/generated", 0) for line in written)


@pytest.mark.parametrize("choice", cli.choices("update"))
def test_every_update_resumes_to_the_same(choice: str, tmp_path: Path) -> None:
    """Two steps and two more are four, with all that a rule remembers: optimizer, baselines, the previous iterate."""
    update = OmegaConf.load(cli.CONF / "update" / f"{choice.removeprefix('update=')}.yaml")
    args = [
        "game=kuhn",
        "player=tabular",
        "player.spread=1",
        choice,
        "episodes=6",
        "eval=none",
        "optimized_metric=loss",
    ]
    if choice == "update=cql":  # the run stops between two copies of the critic
        args = ["game=kuhn", "player=q_table", choice, "episodes=6", "eval=none", "optimized_metric=loss"]
        args += ["update.fits=3", "update.target_every=4"]
    args += ["update.hoard=3"] if "parts" in update else []  # the first round is not over when the run stops
    args += [f"update.{name}=1" for name in ("refresh", "magnet_every") if name in cli.composed(*args)["update"]]
    args += ["update.optimizer._target_=torch.optim.AdamW", "update.optimizer.lr=0.1", "update.max_grad_norm=1"]
    args += ["schedule=harmonic", "schedule.half=2"]
    if "teachers" in update and update.teachers:
        args += ["update.teachers=[expert]", "seats.first=expert"]
        args += ["+players.expert={_target_: selfplay.players.nature.Nature, draw: null}"]
    whole = cli.finished(tmp_path / "whole", *args, "steps=4")
    parts = cli.finished(tmp_path / "parts", *args, "steps=2")
    resumed(parts, "steps=4")
    assert cli.metrics(parts) == cli.metrics(whole)
    assert (parts / "episodes.jsonl").read_bytes() == (whole / "episodes.jsonl").read_bytes()
    last = cli.steps(whole)[-1]
    files = [path.relative_to(whole) for path in sorted((whole / "checkpoints" / last).rglob("*")) if path.is_file()]
    assert all((parts / file).read_bytes() == (whole / file).read_bytes() for file in files) and len(files) >= 3


@pytest.mark.slow
def test_runs_killed_at_random_equal_those_never_stopped(tmp_path: Path) -> None:
    """A few of what `python tests/support/kill_runs.py` does."""
    found = kill_runs.kills(tmp_path, 3, 0, ["lsp", "psro", "every"])
    assert all(killed.moments and not killed.wrong for killed in found), found
