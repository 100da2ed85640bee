"""Sweeps through the launchers and the search that come as extras, each on this machine."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import joblib
import pytest
import sweeps
from omegaconf import OmegaConf

SPY = "+hydra.callbacks.spy._target_=sweeps.Spy"
SUPPORT = cli.ROOT / "tests" / "support"
FAILED = "seed is -1, but it must be a whole number, at least 0; change it"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs, one after the other, in this process."""
    folder = tmp_path_factory.mktemp("launchers") / "whole"
    assert sweeps.start(folder, *sweeps.TABLE, "seed=0,1").code == 0
    return folder


def launched(folder: Path, *args: str) -> cli.Ended:
    """A sweep in a process of its own, spied upon; torch may use every core unless the launcher sees to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        return cli.process("-m", *sweeps.TABLE, *args, SPY, f"hydra.sweep.dir={folder}", path=SUPPORT)


LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"),
    "ray": (
        "hydra/launcher=ray",
        "+hydra.launcher.ray.init.include_dashboard=false",
        "+hydra.launcher.ray.init.num_cpus=2",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_s_runs_are_those_of_the_basic_one(whole: Path, tmp_path: Path, name: str) -> None:
    ended = launched(tmp_path, *LAUNCHERS[name], "seed=0,-1")
    assert ended.code == 1, ended.err
    told = f"failed: job 1 ({' '.join(sweeps.TABLE)} seed=-1) in {tmp_path}/1: {FAILED}\n"
    assert told in ended.out and "1 finished, 1 failed" in ended.out
    assert ended.err.count(FAILED) <= 1 and "Error executing job" not in ended.err
    sweeps.assert_same_run(tmp_path / "0", whole / "0")
    threads, processes = zip(*sweeps.spied(tmp_path), strict=True)
    share = max(1, joblib.cpu_count() // 2) if name == "joblib" else 1
    assert threads == (share, share) and os.getpid() not in processes
    assert [job["outcome"] for job in sweeps.jobs(tmp_path)] == ["finished", "failed"]


@pytest.mark.slow
def test_killed_with_its_processes_and_started_again(whole: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    args = [
        "-m",
        *sweeps.TABLE,
        "seed=0,1",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"hydra.sweep.dir={sweep}",
    ]
    running = subprocess.Popen(
        [sys.executable, str(cli.ROOT / "run.py"), *args],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while running.poll() is None and not list(sweep.glob("*/config.yaml")):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    ended = sweeps.start(sweep, *sweeps.TABLE, "seed=0,1")
    assert ended.code == 0, ended.err
    sweeps.assert_same(sweep, whole)


SEARCH = (
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.n_jobs=2",
    "hydra.sweeper.direction=minimize",
)


@pytest.mark.slow
def test_a_search_is_started_again_like_any_sweep(tmp_path: Path) -> None:
    args = (*sweeps.TABLE, *SEARCH, "steps=3", "update.optimizer.lr=tag(log,interval(0.01,10.0))")
    ended = sweeps.start(tmp_path / "whole", *args)
    assert ended.code == 0, ended.err
    assert "the search will minimize eval/nash_conv" in ended.out and "sweep of 4 jobs: 4 finished\n" in ended.out
    found = OmegaConf.load(tmp_path / "whole" / "optimization_results.yaml")
    values = [job["value"] for job in sweeps.jobs(tmp_path / "whole")]
    assert found.best_value == min(values) < max(values)
    rates = [OmegaConf.load(run / "config.yaml")["update"].optimizer.lr for run in sweeps.runs(tmp_path / "whole")]
    assert len(set(rates)) == 4 and rates[values.index(min(values))] == found.best_params["update.optimizer.lr"]

    again = shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(again / "3")
    (again / "1" / "summary.json").write_text('{"status": "running", "steps": 0}')
    (again / "optimization_results.yaml").unlink()
    ended = sweeps.start(again, *args)
    assert ended.code == 0, ended.err
    assert "1 finished, 1 resumed and finished, 2 already finished" in ended.out
    sweeps.assert_same(again, tmp_path / "whole")
    assert OmegaConf.load(again / "optimization_results.yaml") == found


@pytest.mark.slow
def test_a_failed_trial_does_not_stop_the_search(tmp_path: Path) -> None:
    ended = sweeps.start(tmp_path, *sweeps.TABLE, *SEARCH, "steps=1", "seed=choice(-1,0)")
    assert ended.code == 1 and "Traceback" not in ended.err
    outcomes = [job["outcome"] for job in sweeps.jobs(tmp_path)]
    assert len(outcomes) == 4 and set(outcomes) == {"failed", "finished"}
    assert OmegaConf.load(tmp_path / "optimization_results.yaml").best_params.seed == 0
