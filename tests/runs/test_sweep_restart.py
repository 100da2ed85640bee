"""A sweep that is stopped at any instant and started again equals one that never stopped."""

import shutil
from pathlib import Path

import cli
import pytest
import sweeps

import selfplay.enumeration
from selfplay.runs.claim import Claim

SEEDS = "seed=0,1"
TINY = ("game=lsp", "reward=verifier", "eval=none", "episodes=2", "steps=2", "game.answers=2", "player.max_tokens=12")

# Run the sweep to its end, count what it does to files in its folder, then run it again and again, each time killed
# with its whole process group just before one of these acts, drawn at random.
KILLER = """
import os, random, runpy, signal, sys
import selfplay.runs.session, selfplay.rollout, selfplay.players.language_model
run, root, times, seed, *args = sys.argv[1:]
selfplay.runs.session.draw_curves = lambda metrics, path, *_: path.touch()
acts = 0
def watch(folder, last):
    def act(event, found):
        global acts
        if event.split(".")[0] in ("open", "os", "shutil") and any(folder in str(x) for x in found):
            acts += 1
            if acts == last:
                os.killpg(0, signal.SIGKILL)
    sys.addaudithook(act)
def sweep(name, last):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = [run, "-m", *args, "hydra.sweep.dir=" + root + "/" + name]
        watch(root + "/" + name + "/", last)
        try:
            runpy.run_path(run, run_name="__main__")
        finally:
            os.write(write, str(acts).encode())
            os._exit(0)
    os.close(write)
    status = os.waitpid(child, 0)[1]
    return os.read(read, 99), status
count, status = sweep("whole", 0)
assert status == 0, status
for last in sorted(random.Random(int(seed)).sample(range(1, int(count) + 1), int(times))):
    assert sweep("killed-" + str(last), last) == (b"", 9), last
"""


def killed(root: Path, times: int, *args: str) -> list[Path]:
    """The sweep `whole`, and as many that were killed."""
    root.mkdir(parents=True)
    ended = cli.process(str(cli.ROOT / "run.py"), str(root), str(times), "0", *args, script=KILLER)
    assert ended.code == 0, ended.err
    return sorted(root.glob("killed-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("args", "times"), [(sweeps.TABLE, 5), (TINY, 2)], ids=["table", "tiny"])
def test_killed_anywhere_and_started_again(tmp_path: Path, args: tuple[str, ...], times: int) -> None:
    stopped = killed(tmp_path / "sweeps", times, *args, SEEDS)
    assert len(stopped) == times
    for sweep in stopped:
        ended = sweeps.start(sweep, *args, SEEDS)
        assert ended.code == 0, f"{sweep.name}: {ended.out}{ended.err}"
        sweeps.assert_same(sweep, tmp_path / "sweeps" / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs without a stop."""
    folder = tmp_path_factory.mktemp("restart") / "whole"
    ended = sweeps.start(folder, *sweeps.TABLE, SEEDS)
    assert ended.code == 0, ended.err
    assert "sweep of 2 jobs: 2 finished\n" in ended.out
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_finished_sweep_is_not_touched_and_returns_its_metrics(whole: Path, copy: Path) -> None:
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for run in sweeps.runs(copy) for path in run.rglob("*.*")
    }
    ended = sweeps.start(copy, *sweeps.TABLE, SEEDS)
    assert (ended.code, ended.err) == (0, "")
    assert [f"{copy}/{n} is already finished" in ended.out for n in (0, 1)] == [True, True]
    assert "sweep of 2 jobs: 2 already finished\n" in ended.out and "step 1/" not in ended.out
    after = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for run in sweeps.runs(copy) for path in run.rglob("*.*")
    }
    assert after == before and len(after) > 20
    first, second, again, too = cli.lines(copy / "jobs.jsonl")
    assert (again["outcome"], too["outcome"]) == ("skipped", "skipped")
    assert [again["value"], too["value"]] == [first["value"], second["value"]]
    assert (
        first["value"]
        == cli.summary(whole / "0")["optimized"]["value"]
        == cli.metrics(whole / "0")[-1]["eval"]["nash_conv"]
    )


def test_a_job_that_crashed_is_named_and_gone_on_with(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = selfplay.enumeration.play

    def broken(*args: object, key: str, **seats: object) -> object:
        if key == "0/6":
            raise ZeroDivisionError("no luck\nin step 6")
        return play(*args, key=key, **seats)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(selfplay.enumeration, "play", broken)
        ended = sweeps.start(tmp_path, *sweeps.TABLE, SEEDS)
    assert ended.code == 1
    assert ended.err.startswith("error: job 0: ZeroDivisionError: no luck\nTraceback") and "in broken" in ended.err
    told = f"failed: job 0 ({' '.join(sweeps.TABLE)} seed=0) in {tmp_path}/0: ZeroDivisionError: no luck\n"
    assert told in ended.out and "sweep of 2 jobs: 1 finished, 1 failed\n" in ended.out
    assert cli.summary(tmp_path / "0")["steps"] == 5
    ended = sweeps.start(tmp_path, *sweeps.TABLE, SEEDS)
    assert ended.code == 0 and f"resuming {tmp_path}/0 after step 5" in ended.out
    assert "sweep of 2 jobs: 1 resumed and finished, 1 already finished\n" in ended.out
    assert [job["outcome"] for job in cli.lines(tmp_path / "jobs.jsonl")] == [
        "failed",
        "finished",
        "resumed",
        "skipped",
    ]
    sweeps.assert_same(tmp_path, whole)


def test_a_run_is_not_finished_before_its_last_file_is_written(whole: Path, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.runs.session.draw_curves", broken)
        assert "curves.png cannot be written (no space left)" in sweeps.start(tmp_path, *sweeps.TABLE, SEEDS).out
    ended = sweeps.start(tmp_path, *sweeps.TABLE, SEEDS)
    assert ended.code == 0 and "2 resumed and finished" in ended.out
    sweeps.assert_same(tmp_path, whole)


def test_checkpoints_that_a_kill_left_over_are_removed(whole: Path, copy: Path) -> None:
    for name in ("step-000002", ".removing-step-000001", ".writing-step-000009"):
        shutil.copytree(copy / "0" / "checkpoints" / "step-000007", copy / "0" / "checkpoints" / name)
    (copy / "0" / "summary.json").write_text('{"status": "running", "steps": 8}')
    assert sweeps.start(copy, *sweeps.TABLE, SEEDS).code == 0
    sweeps.assert_same(copy, whole)


def test_a_mistake_is_told_in_a_sentence_and_leaves_its_reason(tmp_path: Path) -> None:
    ended = sweeps.start(tmp_path, *sweeps.TABLE, "seed=-1,0")
    reason = "seed is -1, but it must be a whole number, at least 0; change it"
    assert (ended.code, ended.err) == (1, f"error: job 0: {reason}\n")
    assert f"in {tmp_path}/0: {reason}\n" in ended.out and "1 finished, 1 failed\n" in ended.out
    assert cli.summary(tmp_path / "0") == {"status": "failed", "steps": 0, "tokens": 0, "reason": reason}
    assert (tmp_path / "0" / "config.yaml").is_file()
    assert [(job["outcome"], job["value"] is not None) for job in sweeps.jobs(tmp_path)[1:]] == [("finished", True)]


def test_every_batch_is_launched_whatever_failed_before(tmp_path: Path) -> None:
    ended = sweeps.start(tmp_path, *sweeps.TABLE, "seed=-1,0", "hydra.sweeper.max_batch_size=1")
    assert ended.code == 1 and cli.summary(tmp_path / "1")["status"] == "finished"


def test_what_cannot_be_composed_is_told_too(tmp_path: Path) -> None:
    ended = sweeps.start(tmp_path, *sweeps.TABLE, "+game.nothing='${nowhere}',1", "steps=1")
    assert ended.code == 1 and "nowhere" in ended.out and "'${nowhere}'" in ended.out
    assert "sweep of 2 jobs: 2 failed" in ended.out and "has no option 'nothing'" in ended.out
    assert not (tmp_path / "0").exists() and cli.summary(tmp_path / "1")["status"] == "failed"


def test_the_commands_at_the_end_are_those_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = cli.run("-m", *sweeps.TABLE, "steps=1", "seed=0,1", "sweep=mine")
    assert sorted(path.name for path in (tmp_path / "multirun" / "mine").iterdir()) == [
        "0",
        "1",
        "jobs.jsonl",
        "multirun.yaml",
    ]
    assert "sweep folder: multirun/mine\n" in ended.out and "selfplay report multirun/mine\n" in ended.out
    assert ended.out.endswith("seed=0,1 sweep=mine\n")
    ended = cli.run("-m", *sweeps.TABLE, "steps=1", "seed=0,1")
    [command] = [line for line in ended.out.splitlines() if line.startswith("restart, skipping")]
    folder = command.partition("hydra.sweep.dir=")[2]
    assert folder.startswith("multirun/2") and (tmp_path / folder / "1" / "summary.json").is_file()


def test_a_single_run_is_no_sweep(tmp_path: Path) -> None:
    ended = cli.run(*sweeps.TABLE, "sweep=mine", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1 and not (tmp_path / "run").exists()
    assert ended.err == "error: sweep is 'mine', but this is a single run; add -m to sweep, or leave it out\n"


# --- what counts as the same run --------------------------------------------------------------------------------------


def test_another_config_is_refused_and_nothing_is_written(copy: Path) -> None:
    before = sweeps.files(copy / "0")
    ended = sweeps.start(copy, *sweeps.TABLE, "update.optimizer.lr=0.5", "seed=0,2")
    assert ended.code == 1 and ended.err.count("\n") == 2
    first, second = ended.err.splitlines()
    assert first.startswith(
        f"error: job 0: {copy}/0 holds a run with another config (update.optimizer.lr is 1.0 there and 0.5 now)"
    )
    assert "(seed is 1 there and 2 now)" in second or "(update.optimizer.lr is" in second
    assert sweeps.files(copy / "0") == before


def test_the_config_counts_and_not_the_words(copy: Path) -> None:
    ended = sweeps.start(copy, *sweeps.TABLE, SEEDS, "update.optimizer.lr=1.0", "reward=none", "device=cpu")
    assert ended.code == 0 and "2 already finished" in ended.out


def test_more_steps_go_on_and_what_resume_may_change_may_change(whole: Path, tmp_path: Path) -> None:
    sweeps.start(tmp_path, *sweeps.TABLE, SEEDS, "steps=5", "update.micro_batch=64", "checkpoint.keep_every=0")
    ended = sweeps.start(tmp_path, *sweeps.TABLE, SEEDS)
    assert ended.code == 0 and "2 resumed and finished" in ended.out
    for run in ("0", "1"):
        last = cli.metrics(whole / run)[-1]
        assert cli.metrics(tmp_path / run)[-1] == last and cli.summary(tmp_path / run)["steps"] == 8
    ended = sweeps.start(tmp_path, *sweeps.TABLE, SEEDS, "steps=5")
    assert ended.code == 1 and f"steps is 5, but {tmp_path}/0 has already done 8" in ended.err


@pytest.mark.parametrize("left", [".writing-config.yaml", "config.yaml", "episodes.jsonl"])
def test_what_kept_nothing_begins_anew_with_any_config(whole: Path, tmp_path: Path, left: str) -> None:
    shutil.copytree(whole, tmp_path / "sweep", ignore=shutil.ignore_patterns("0"))
    (tmp_path / "sweep" / "0").mkdir()
    kept = (whole / "0" / "config.yaml").read_text().replace("seed: 0", "seed: 5")
    if left == "episodes.jsonl":  # the step was written down, its metrics were not
        (tmp_path / "sweep" / "0" / left).write_bytes((whole / "0" / left).read_bytes()[:5000])
        left = "config.yaml"
    (tmp_path / "sweep" / "0" / left).write_text(kept)
    ended = sweeps.start(tmp_path / "sweep", *sweeps.TABLE, SEEDS)
    assert ended.code == 0 and "1 finished, 1 already finished" in ended.out
    sweeps.assert_same(tmp_path / "sweep", whole)


def test_two_processes_keep_out_of_one_folder(copy: Path) -> None:
    before = sweeps.files(copy / "0")
    with Claim(copy / "0"):
        ended = sweeps.start(copy, *sweeps.TABLE, SEEDS, "steps=9")
    assert (
        ended.code == 1
        and ended.err
        == f"error: job 0: another process is using {copy}/0; wait for it to finish or stop it, then start again\n"
    )
    assert sweeps.files(copy / "0") == before and cli.summary(copy / "1")["steps"] == 9
    assert sweeps.start(copy, *sweeps.TABLE, SEEDS, "steps=9").code == 0
    assert cli.summary(copy / "0")["steps"] == 9


def test_a_broken_summary_is_told(copy: Path) -> None:
    (copy / "0" / "summary.json").write_text("{")
    ended = sweeps.start(copy, *sweeps.TABLE, SEEDS)
    assert ended.code == 1 and f"error: job 0: {copy}/0/summary.json is broken" in ended.err


def test_a_torn_line_of_jobs_is_forgotten_and_a_broken_one_told(copy: Path) -> None:
    with (copy / "jobs.jsonl").open("a") as file:
        file.write('{"job": 0, "fol')
    ended = sweeps.start(copy, *sweeps.TABLE, SEEDS)
    assert ended.code == 0 and "sweep of 2 jobs: 2 already finished\n" in ended.out
    assert len(cli.lines(copy / "jobs.jsonl")) == 4
    with (copy / "jobs.jsonl").open("a") as file:
        file.write("torn\n")
    ended = sweeps.start(copy, *sweeps.TABLE, SEEDS)
    assert ended.code == 1 and ended.err.startswith(f"error: line 5 of {copy}/jobs.jsonl is not JSON")


def test_a_sweep_over_runs_to_resume_makes_no_folder_that_is_none(copy: Path, tmp_path: Path) -> None:
    ended = sweeps.start(tmp_path / "sweep", f"resume={copy}/0,{tmp_path}/none", "steps=9")
    assert ended.code == 1 and f"{tmp_path}/none is not a run folder" in ended.out
    assert not (tmp_path / "none").exists() and not (tmp_path / "sweep" / "1").exists()
    assert cli.summary(copy / "0")["steps"] == 9
