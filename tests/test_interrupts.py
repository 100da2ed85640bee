"""A signal ends a run with its status, its code and without a traceback, and what is left can be gone on with."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cli
import pytest
import sweeps
from kill_runs import Process

import selfplay.enumeration
from selfplay import interrupts

TABLE = (*sweeps.TABLE[:-4], "steps=2000", "eval=none", "optimized_metric=loss", "checkpoint.every=500")
PATIENCE = 300.0  # seconds; more than any machine needs


@contextmanager
def started(folder: Path, *args: str, own: bool = False) -> Iterator[Process]:
    """`python run.py ARGS`, which never outlives the block: forked from this process, or one of its own."""
    process = Process(folder, args, own)
    try:
        yield process
    finally:
        if not process.ended():
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def heeding_hangups() -> Iterator[None]:
    """Processes that start in the block do not inherit that the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def until(reached: Callable[[], object]) -> None:
    """Wait."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.01)


def logged(folder: Path) -> int:
    """The lines of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def watches(process: Process) -> bool:
    """Whether the process handles the last of the signals that run.py watches for, as Linux tells."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGUSR2 - 1))


def ended(process: Process, folder: Path) -> tuple[int, str]:
    """The exit code, and what was said."""
    until(process.ended)
    said = folder.with_name(f"{folder.name}.log").read_text()
    assert "Traceback" not in said, said
    return process.wait(), said


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_step_is_finished_and_kept(name: str, tmp_path: Path) -> None:
    number, folder = signal.Signals[name], tmp_path / "run"
    with started(folder, *TABLE, f"hydra.run.dir={folder}") as process:
        until(lambda: logged(folder) > 3)
        os.kill(process.pid, number)
        code, said = ended(process, folder)
    assert code == 128 + number
    done = cli.summary(folder)["steps"]
    assert cli.summary(folder)["status"] == "interrupted" and done == logged(folder) < 500
    assert cli.steps(folder) == [f"step-{done:06d}"], "no step is lost, though checkpoints are rare"
    assert f"interrupted by {name} after step {done}; resume with: python run.py resume={folder}" in said
    if name == "SIGTERM":
        more = cli.run(f"resume={folder}", f"steps={done + 3}")
        assert more.code == 0 and f"resuming {folder} after step {done}" in more.out, more.err
        whole = cli.finished(tmp_path / "whole", *TABLE, f"steps={done + 3}")
        assert cli.metrics(folder) == cli.metrics(whole)
        assert (folder / "episodes.jsonl").read_bytes() == (whole / "episodes.jsonl").read_bytes()


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGINT"), ("SIGHUP", None)])
def test_a_second_signal_ends_a_step_that_never_would(
    first: str, second: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, folder = selfplay.enumeration.play, tmp_path / "run"

    def endless(*args: object, key: str, **seats: object) -> object:
        while key.endswith("/3"):
            time.sleep(0.05)
        return play(*args, key=key, **seats)  # type: ignore[arg-type]

    monkeypatch.setattr(selfplay.enumeration, "play", endless)
    with heeding_hangups(), started(folder, *TABLE, f"hydra.run.dir={folder}") as process:
        until(lambda: logged(folder) == 2)
        time.sleep(0.3)
        os.kill(process.pid, signal.Signals[first])
        if second is not None:
            time.sleep(2 * interrupts.ONCE)
            assert not process.ended(), "the first signal waits for the step"
            os.kill(process.pid, signal.Signals[second])
        code, _ = ended(process, folder)
    assert code == 128 + signal.Signals[second or first]
    assert cli.summary(folder)["status"] == "interrupted" and cli.summary(folder)["steps"] == 2


def test_ctrl_c_twice_at_work(tmp_path: Path) -> None:
    """The second may come before the first is seen, or while the run closes its files."""
    for number, apart in enumerate((0.001, 0.02, 0.1)):
        folder = tmp_path / str(number)
        with started(folder, *TABLE, f"hydra.run.dir={folder}") as process:
            until(lambda folder=folder: logged(folder) >= 2)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGINT)
            time.sleep(apart)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
            code, said = ended(process, folder)
        assert code in (130, -signal.SIGINT) and "Traceback" not in said, said
        assert cli.summary(folder)["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_it_imports(times: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for seconds in (0.0, 0.5):
        with started(folder, *TABLE, f"hydra.run.dir={folder}", own=True) as process:
            until(lambda: watches(process))  # Python itself has started
            time.sleep(seconds)
            for _ in range(times):
                os.kill(process.pid, signal.SIGINT)
            assert ended(process, folder) == (130, "")
        assert not folder.exists()


def test_ctrl_c_does_not_wait_for_a_judge_that_hangs(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and never says a word
        server.settimeout(PATIENCE)
        url = f"reward.endpoint.url=http://127.0.0.1:{server.getsockname()[1]}/v1"
        args = [*cli.SMALL, "reward=judge", url, "reward.endpoint.cache=null", f"hydra.run.dir={folder}"]
        with started(folder, *args) as process:
            held, _ = server.accept()
            began = time.monotonic()
            os.kill(process.pid, signal.SIGINT)
            code, said = ended(process, folder)
            assert time.monotonic() - began < 60, "2 s on a quiet machine; a request may take 120 s"
            held.close()
    assert code == 130 and "interrupted after step 0" in said
    assert cli.summary(folder)["status"] == "interrupted"


def test_an_interrupt_while_curves_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfplay.runs.session.draw_curves", interrupted)
    found = cli.run(*sweeps.TABLE, "steps=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert (found.code, found.err) == (130, "") and cli.summary(tmp_path / "run")["status"] == "interrupted"
    monkeypatch.setattr("selfplay.runs.session.draw_curves", lambda metrics, path, *_: None)
    assert cli.run(f"resume={tmp_path / 'run'}").code == 0
    assert cli.summary(tmp_path / "run")["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_stops_with_its_jobs(launcher: str, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    args = ["-m", *TABLE, "seed=0,1,2", f"hydra/launcher={launcher}", f"hydra.sweep.dir={sweep}"]
    args += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    with started(sweep, *args, own=launcher != "basic") as process:
        at_work = 1 if launcher == "basic" else 2
        until(lambda: sum(logged(sweep / str(job)) > 3 for job in range(3)) >= at_work)
        os.kill(process.pid, signal.SIGTERM)
        code, said = ended(process, sweep)
    assert code == 128 + signal.SIGTERM, said
    runs = [path for path in sweeps.runs(sweep) if (path / "summary.json").exists()]
    assert len(runs) >= at_work
    for run in runs:
        assert cli.summary(run)["status"] == "interrupted"
        assert not logged(run) or cli.steps(run) == [f"step-{logged(run):06d}"]  # a third job may have just begun
    assert sum(logged(run) > 3 for run in runs) >= at_work and not (sweep / ".stop").exists()
    if launcher != "basic":
        assert {job["outcome"] for job in sweeps.jobs(sweep)} == {"interrupted"} and "3 interrupted" in said


def test_a_preempted_job_of_submitit_is_queued_again_after_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit installs a handler that queues the job again; the step and its checkpoint come before it."""
    folder, watch = tmp_path / "run", interrupts.watch

    def requeue(number: int, frame: object) -> None:
        print("queued again", flush=True)
        sys.exit(7)

    def watching(**_: object) -> None:
        signal.signal(signal.SIGUSR2, requeue)
        watch(patient=True)

    monkeypatch.setattr(interrupts, "watch", watching)
    with started(folder, *TABLE, f"hydra.run.dir={folder}") as process:
        until(lambda: logged(folder) > 3)
        os.kill(process.pid, signal.SIGUSR2)
        code, said = ended(process, folder)
    assert code == 7 and said.index("interrupted by SIGUSR2") < said.index("queued again")
    assert cli.steps(folder) == [f"step-{logged(folder):06d}"]
    assert cli.summary(folder)["status"] == "interrupted"
