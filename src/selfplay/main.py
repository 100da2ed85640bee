"""Train by self-play: compose the config, loop over play -> score_and_pay -> collate -> update, keep records.

python run.py                                       Language Self-Play with the embedded model, a minute or two
python run.py -m game=lsp reward=rm,selfjudge       a sweep; with sweep=<name>, a resumable one
python run.py resume=outputs/2026-01-01/12-00-00    resume from the last checkpoint
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from selfplay import interrupts
from selfplay.commandline import arguments, fail
from selfplay.errors import SelfplayError
from selfplay.garbage import collected, hold_garbage
from selfplay.project import CONF, config_folders, import_from_here
from selfplay.torchrun import follower_arguments, follows

if TYPE_CHECKING:
    from selfplay.experiment import Experiment
    from selfplay.runs.session import Session


def loop(experiment: Experiment, cfg: DictConfig, session: Session) -> None:
    """Train until `cfg.steps` steps are done; the session yields the remaining steps and keeps the records."""
    from selfplay.console import say
    from selfplay.metrics import of_episodes, of_learner
    from selfplay.parallel import current
    from selfplay.records import Learnt
    from selfplay.rollout import collate, encode_replies, score_and_pay, turns_of
    from selfplay.update_checks import UpdateChecks

    trainees = experiment.trainees
    checks = {name: UpdateChecks(trainee, session.done == 0, say) for name, trainee in trainees.items()}
    for step in session.remaining():
        start = time.perf_counter()
        experiment.before(step)
        with current().whole():
            episodes = experiment.play(step, cfg.episodes, f"{cfg.seed}/{step}")
            played = time.perf_counter()
            scores = score_and_pay(experiment.game, episodes, experiment.referees, experiment.players)
        scored = time.perf_counter()
        metrics: dict[str, Any] = of_episodes(episodes) | scores
        advantages: dict[int, float] = {}
        for name, trainee in trainees.items():
            turns = turns_of(episodes, name, *trainee.update.teachers)
            batch = collate(encode_replies(turns, name, trainee.learner), name)
            checks[name].before(episodes, turns_of(episodes, name), batch)
            learnt = Learnt.of(trainee.update.step(batch))
            checks[name].after(learnt.metrics)
            metrics |= of_learner(name, {turn.ask.role for _, turn in turns if turn.player == name}, learnt.metrics)
            advantages = learnt.by_turn(turns) | advantages  # a shared teacher's turns have the first learner's
        ended = time.perf_counter()
        times = {"time/play": played - start, "time/score": scored - played, "time/update": ended - scored}
        session.record(step, episodes, metrics | times | experiment.after(step, episodes), advantages)


def run(cfg: DictConfig) -> float:
    """Do one run; return the optimized metric."""
    with collected() as collect:
        import torch

        from selfplay.building import build, joined
        from selfplay.engines.memory import keep_freed_memory
        from selfplay.openmp import fit_threads
        from selfplay.runs.session import Session
        from selfplay.runs.start import prepared

        keep_freed_memory()
        fit_threads()
        with ExitStack() as stack:
            processes = stack.enter_context(joined(cfg))
            start = processes.lead(lambda: stack.enter_context(prepared(cfg)))
            if start.result is not None:
                return start.result
            torch.manual_seed(start.cfg.seed)
            experiment = build(start.cfg)
            collect()
            with Session(start.folder, start.cfg, experiment, start.goes_on) as session:
                loop(session.experiment, start.cfg, session)
            return processes.lead(lambda: session.optimized)


def job(cfg: DictConfig) -> float:
    """One job of the command line: a run; an interrupt or user error sets the exit code."""
    try:
        return run(cfg)
    except (KeyboardInterrupt, interrupts.Stopped) as stop:
        from selfplay.runs.jobs import leave

        leave(stop)
    except SelfplayError as error:
        from selfplay.runs.claim import remove_if_empty

        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:
            raise  # the sweep continues and reports the job at its end: runs/jobs.py
        if not follows():
            remove_if_empty(Path(job.runtime.output_dir))  # created by Hydra; removed if the run wrote nothing
        fail(error)


def main() -> None:
    """Compose the config from conf/ and the command line, then run or sweep."""
    import_from_here()
    try:
        sys.argv[1:] = arguments([*sys.argv[1:], *follower_arguments(sys.argv)], [CONF, *config_folders().values()])
    except SelfplayError as error:
        fail(error)
    hold_garbage()
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
