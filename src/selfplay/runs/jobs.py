"""A sweep from the outside: what became of each job, and what is said at the end. Called by Hydra (conf/config.yaml).

A failed job gives its sweeper None instead of the exception: thus every sweeper and launcher goes on with the others.
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
from selfplay.files import append, lines, mend, to_disk
from selfplay.runs.claim import Claim
from selfplay.runs.folder import RunFolder
from selfplay.runs.start import overrides_of
from selfplay.secrets import secrets, told

# here and not in run.py: the processes of a launcher never import that, but each of them holds the callback
OmegaConf.register_new_resolver("run_folder", lambda given, new: given or new, replace=True)

JOBS, STOP = "jobs.jsonl", ".stop"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
OUTCOMES = {
    "finished": "finished",
    "resumed": "gone on with and finished",
    "skipped": "finished before",
    "interrupted": "interrupted",
    "failed": "failed",
}


class Interrupted(SelfplayError):
    """A job of a launcher stopped because a signal asked for it; the sweep that is started again goes on with it."""


def leave(stop: BaseException) -> NoReturn:
    """End the process that a signal stopped, with the signal's code; in a launcher's process, only the job.

    Raises:
        Interrupted: the process is a launcher's.
        SystemExit: it is not.
    """
    number = stop.number if isinstance(stop, interrupts.Stopped) else int(signal.SIGINT)
    if interrupts.is_patient():
        interrupts.hand_on(number)
        raise Interrupted(f"stopped by {signal.Signals(number).name}; start the sweep again to go on")
    sys.exit(128 + number)


class Jobs(Callback):  # type: ignore[misc]
    """Keeps jobs.jsonl in the sweep's folder, a line a job and start; closes the sweep: counts, failures, commands."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._earlier = 0  # lines of jobs.jsonl
        self._was: dict[str, Any] | None = None  # the summary of the run that the job's folder held before
        self._claim: Claim | None = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """See to it that the config holds no secret and the run's folder can be made, before Hydra makes it."""
        _check_secrets(config)
        with _told(), to_disk(Path(config.hydra.run.dir)):
            Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Claim the sweep's folder, remember where the records of this start begin, and see to it that a search would
        choose the same jobs again."""
        _check_secrets(config)
        sweep = _sweep(config)
        with _told():
            self._claim = Claim(sweep)
            (sweep / STOP).unlink(missing_ok=True)
            mend(sweep / JOBS, number="job")
            for path in sweep.glob("[0-9]*"):
                if not path.is_dir():
                    raise SelfplayError(f"{path} is no folder, but a job of this sweep needs it; move it away")
        if config.hydra.launcher._target_ != BASIC:  # which runs the jobs in this process
            interrupts.watch(patient=True, stop_file=sweep / STOP, writes=True)
        self._earlier = len(_records(config))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing calls home
        sweeper = config.hydra.sweeper
        if "sampler" in sweeper and "seed" in sweeper.sampler and sweeper.sampler.seed is None:
            sweeper.sampler.seed = 0
        if "direction" in sweeper:
            way = sweeper.direction if isinstance(sweeper.direction, str) else sweeper.direction.name
            say(f"the search will {way} {config.optimized_metric} (hydra.sweeper.direction)")

    def on_job_start(self, config: DictConfig, *, task_function: Any, **_: Any) -> None:
        """Name the job; in a process of a launcher, print plain lines and keep to its share of the cores."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        self._was = None
        number, folder = config.hydra.job.num, _folder(config)
        if os.getpid() != self._process:
            interrupts.watch(patient=True, stop_file=_sweep(config) / STOP)
            plain(f"[{number}] ")
            torch.set_num_threads(_threads(config.hydra.launcher))
        say(f"job {number}: {' '.join(overrides_of(config.hydra))}")
        with suppress(SelfplayError):  # a broken file: the job will say so
            self._was = folder.summary if folder.holds_run and not folder.is_blank else None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the job's line. The sweeper gets None for a failed one, so that it goes on with the others."""
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
            error = job_return._return_value  # the property would raise it
            stopped = isinstance(error, Interrupted)
            line |= {"outcome": "interrupted" if stopped else "failed", "reason": _reason(error)}
            print(f"error: job {line['job']}: {line['reason']}", file=sys.stderr)
            if not isinstance(error, SelfplayError):
                traceback.print_exception(error)
            if not stopped:
                _keep(config, job_return.cfg, line["reason"])
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        append(sweep / JOBS, [line])

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Say how many jobs ended how, which failed and why, what to type next.

        The exit code is 1 if a job failed, and a signal's (see `interrupts`) if one stopped the sweep.
        """
        number = interrupts.asked()
        (_sweep(config) / STOP).unlink(missing_ok=True)
        if self._claim is not None:
            self._claim.close()
        jobs = sorted(_records(config)[self._earlier :], key=lambda job: int(job["job"]))
        counts = Counter(job["outcome"] for job in jobs)
        said = ", ".join(f"{counts[outcome]} {words}" for outcome, words in OUTCOMES.items() if counts[outcome])
        sweep = config.hydra.sweep.dir
        say(f"sweep of {len(jobs)} jobs: {said}")
        failed = [job for job in jobs if job["outcome"] == "failed"]
        for job in failed:
            where = Path(sweep, job["folder"])
            say(f"failed: job {job['job']} ({' '.join(job['overrides'])}) in {where}: {job['reason']}")
        say(f"sweep folder: {sweep}")
        say(f"what was found: python -m selfplay.report {shlex.quote(sweep)}")
        say(f"start it again, without the finished jobs: {_command(sweep)}")
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
        print(f"error: {told(key)}", file=sys.stderr)
        sys.exit(1)


def _threads(launcher: DictConfig) -> int:
    """How many threads a launcher's process may use: as submitit was told, as joblib, ray or a person set, or 1."""
    if "cpus_per_task" in launcher and launcher.cpus_per_task is not None:
        return int(launcher.cpus_per_task)
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() else 1


def _reason(error: BaseException) -> str:
    told = str(error).strip().split("\n")[0]
    return told if isinstance(error, SelfplayError) else f"{type(error).__name__}: {told}"


def _keep(config: DictConfig, task: DictConfig, reason: str) -> None:
    """Leave the reason also where the run did not come so far as to write anything; whatever was written stays."""
    folder = RunFolder(Path(config.hydra.runtime.output_dir))
    # suppressed: what cannot be resolved (the reason says so), another process at work there, a full disk
    with suppress(OmegaConfBaseException, SelfplayError), Claim(folder.path):
        if config.resume is None and not folder.holds_run:
            RunFolder.create(folder.path, task)
            folder.summarise({"status": "failed", "steps": 0, "seconds": 0.0, "tokens": 0, "reason": reason})


@contextmanager
def _told() -> Iterator[None]:
    """A mistake ends the program with one sentence."""
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
    """What was typed, with the folder of the sweep where that had been left to the clock."""
    given = any(arg.startswith(("sweep=", "hydra.sweep.dir=")) for arg in sys.argv)
    start = ["python", sys.argv[0]] if program() != "selfplay" else ["selfplay"]
    return shlex.join([*start, *as_typed(sys.argv[1:]), *([] if given else [f"hydra.sweep.dir={sweep}"])])
