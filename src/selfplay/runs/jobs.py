"""Hydra callback of a sweep: records the outcome of each job and prints a summary (configured in conf/config.yaml).

A failed job returns None to the sweeper instead of raising, so that every sweeper and launcher continues with the rest.
"""

import os
import shlex
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfplay import interrupts
from selfplay.commandline import as_typed, program
from selfplay.console import plain, say
from selfplay.core import SelfplayError
from selfplay.files import append, lines, repair, to_disk
from selfplay.runs.claim import Claim
from selfplay.runs.folder import RunFolder
from selfplay.runs.start import overrides_of
from selfplay.secrets import secret_error, secrets

# registered here because a launcher's processes load this callback but never import run.py
OmegaConf.register_new_resolver("run_folder", lambda given, new: given or new, replace=True)

JOBS, STOP = "jobs.jsonl", ".stop"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
OUTCOMES = {
    "finished": "finished",
    "resumed": "resumed and finished",
    "skipped": "already finished",
    "interrupted": "interrupted",
    "failed": "failed",
}


class Interrupted(SelfplayError):
    """A signal stopped a job of a launcher; restarting the sweep resumes the job."""


def leave(stop: BaseException) -> NoReturn:
    """Exit with the code of the signal that stopped the run; in a launcher's process, end only the job.

    Raises:
        Interrupted: the process belongs to a launcher.
        SystemExit: otherwise.
    """
    number = stop.number if isinstance(stop, interrupts.Stopped) else int(signal.SIGINT)
    if interrupts.is_patient():
        interrupts.hand_on(number)
        raise Interrupted(f"stopped by {signal.Signals(number).name}; start the sweep again to resume")
    sys.exit(128 + number)


class Jobs(Callback):  # type: ignore[misc]
    """Writes jobs.jsonl in the sweep's folder, one line per job and start, and prints a summary when the sweep ends."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._earlier = 0  # lines of jobs.jsonl from earlier starts
        self._was: dict[str, Any] | None = None  # summary of the run that was already in the job's folder
        self._claim: Claim | None = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check that the config contains no secret, and create the run's folder before Hydra does."""
        _check_secrets(config)
        with _exit_on_error(), to_disk(Path(config.hydra.run.dir)):
            Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Lock the sweep's folder, count earlier records, and seed the search so that a restart repeats its choices."""
        _check_secrets(config)
        sweep = _sweep(config)
        with _exit_on_error():
            self._claim = Claim(sweep)
            (sweep / STOP).unlink(missing_ok=True)
            repair(sweep / JOBS, number="job")
            for path in sweep.glob("[0-9]*"):
                if not path.is_dir():
                    raise SelfplayError(f"{path} is not a folder, but a job of this sweep needs it; move it away")
        if config.hydra.launcher._target_ != BASIC:  # BASIC runs the jobs in this process
            interrupts.watch(patient=True, stop_file=sweep / STOP, writes=True)
        self._earlier = len(_records(config))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        sweeper = config.hydra.sweeper
        if "sampler" in sweeper and "seed" in sweeper.sampler and sweeper.sampler.seed is None:
            sweeper.sampler.seed = 0
        if "direction" in sweeper:
            direction = sweeper.direction if isinstance(sweeper.direction, str) else sweeper.direction.name
            say(f"the search will {direction} {config.optimized_metric} (hydra.sweeper.direction)")

    def on_job_start(self, config: DictConfig, *, task_function: Any, **_: Any) -> None:
        """Print the job's name; in a launcher's process, also print plain lines and limit the threads."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        self._was = None
        number, folder = config.hydra.job.num, _folder(config)
        if os.getpid() != self._process:
            interrupts.watch(patient=True, stop_file=_sweep(config) / STOP)
            plain(f"[{number}] ")
            torch.set_num_threads(_threads(config.hydra.launcher))
        say(f"job {number}: {' '.join(overrides_of(config.hydra))}")
        with suppress(SelfplayError):  # the job itself reports a broken file
            self._was = folder.summary if folder.holds_run and not folder.is_blank else None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Record the job. A failed one returns None to the sweeper, which then continues with the others."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder, sweep = _folder(config), _sweep(config)
        line: dict[str, Any] = {
            "job": config.hydra.job.num,
            "folder": os.path.relpath(folder.path, sweep),
            "overrides": overrides_of(config.hydra),
        }
        if job_return.status == JobStatus.COMPLETED:
            line |= {"outcome": self._outcome(folder), "value": job_return.return_value}
        else:
            error = job_return._return_value  # `return_value` would raise the exception
            stopped = isinstance(error, Interrupted)
            line |= {"outcome": "interrupted" if stopped else "failed", "reason": _reason(error)}
            print(f"error: job {line['job']}: {line['reason']}", file=sys.stderr)
            if not isinstance(error, SelfplayError):
                traceback.print_exception(error)
            if not stopped:
                _record_failure(config, job_return.cfg, line["reason"])
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        append(sweep / JOBS, [line])

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the number of jobs by outcome, the failures with their reasons, and the commands to run next.

        The exit code is 1 if a job failed, or that of the signal that stopped the sweep (see `interrupts`).
        """
        number = interrupts.asked()
        (_sweep(config) / STOP).unlink(missing_ok=True)
        if self._claim is not None:
            self._claim.close()
        jobs = sorted(_records(config)[self._earlier :], key=lambda job: int(job["job"]))
        counts = Counter(job["outcome"] for job in jobs)
        outcomes = ", ".join(f"{counts[outcome]} {words}" for outcome, words in OUTCOMES.items() if counts[outcome])
        sweep = config.hydra.sweep.dir
        say(f"sweep of {len(jobs)} jobs: {outcomes}")
        failed = [job for job in jobs if job["outcome"] == "failed"]
        for job in failed:
            where = Path(sweep, job["folder"])
            say(f"failed: job {job['job']} ({' '.join(job['overrides'])}) in {where}: {job['reason']}")
        say(f"sweep folder: {sweep}")
        say(f"write a report: selfplay report {shlex.quote(sweep)}")
        say(f"restart, skipping finished jobs: {_command(sweep)}")
        if number is not None:
            sys.exit(128 + number)
        if failed:
            sys.exit(1)

    def _outcome(self, folder: RunFolder) -> str:
        if self._was is None:
            return "finished"
        return "skipped" if self._was == folder.summary else "resumed"


def _check_secrets(config: DictConfig) -> None:
    for key in secrets(OmegaConf.to_container(config, resolve=False)):
        print(f"error: {secret_error(key)}", file=sys.stderr)
        sys.exit(1)


def _threads(launcher: DictConfig) -> int:
    """Threads of a launcher's process: submitit's cpus_per_task, OMP_NUM_THREADS (joblib, Ray or the user), or 1."""
    if "cpus_per_task" in launcher and launcher.cpus_per_task is not None:
        return int(launcher.cpus_per_task)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() else 1


def _reason(error: BaseException) -> str:
    message = str(error).strip().split("\n")[0]
    return message if isinstance(error, SelfplayError) else f"{type(error).__name__}: {message}"


def _record_failure(config: DictConfig, task: DictConfig, reason: str) -> None:
    """Record the reason if the job failed before its run wrote anything; an existing run is left unchanged."""
    folder = RunFolder(Path(config.hydra.runtime.output_dir))
    # suppressed: an unresolvable config (the reason says so), a folder in use, a full disk
    with suppress(OmegaConfBaseException, SelfplayError), Claim(folder.path):
        if config.resume is None and not folder.holds_run:
            RunFolder.create(folder.path, task)
            folder.summarise({"status": "failed", "steps": 0, "seconds": 0.0, "tokens": 0, "reason": reason})


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Print a SelfplayError as one line and exit with code 1."""
    try:
        yield
    except SelfplayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _folder(config: DictConfig) -> RunFolder:
    """The folder of a job's run."""
    return RunFolder(Path(config.resume or config.hydra.runtime.output_dir))


def _sweep(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)


def _records(config: DictConfig) -> list[dict[str, Any]]:
    return [record for _, record in lines(_sweep(config) / JOBS, number="job")]


def _command(sweep: str) -> str:
    """The command as typed, with the sweep's folder added if none was given."""
    given = any(arg.startswith(("sweep=", "hydra.sweep.dir=")) for arg in sys.argv)
    start = ["python", sys.argv[0]] if program() != "selfplay" else ["selfplay"]
    return shlex.join([*start, *as_typed(sys.argv[1:]), *([] if given else [f"hydra.sweep.dir={sweep}"])])
