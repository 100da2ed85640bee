"""A run's session: writes its records after every step, and handles how it ends."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from omegaconf import DictConfig, OmegaConf

from selfplay import interrupts
from selfplay.building import make
from selfplay.commandline import program
from selfplay.console import say
from selfplay.core import Episode, SelfplayError
from selfplay.experiment import Experiment
from selfplay.files import DiskError, to_disk
from selfplay.loggers import Loggers
from selfplay.measures import numbers
from selfplay.opponents.matchmaker import LEARNER
from selfplay.out_of_memory import is_out_of_memory
from selfplay.parallel import current
from selfplay.plots.curves import draw_curves
from selfplay.runs import checkpoint
from selfplay.runs.disk_space import note
from selfplay.runs.early_stop import EarlyStop, evaluations_of, optimized
from selfplay.runs.folder import RunFolder
from selfplay.runs.progress import Progress, closing_figures, closing_table, only_figures
from selfplay.runs.restore import restored


class Session:
    """Keeps a run's records, and resumes from them. A context manager around the training loop.

    Args:
        path: the run's folder, locked by the caller.
        cfg: the whole config.
        experiment: the components of the run.
        goes_on: whether the folder already contains this run.

    Raises:
        SelfplayError: the checkpoint cannot be read, it has more steps than `cfg`, or the folder of a new run already
            contains a run.
    """

    def __init__(self, path: Path, cfg: DictConfig, experiment: Experiment, goes_on: bool) -> None:
        self.cfg, self.experiment = cfg, experiment
        self.done = 0
        self.summary: dict[str, Any] = {}
        self.processes = current()
        leads = self.processes.rank == 0
        nodes = cfg.logger.items() if leads else ()
        self.loggers = Loggers({str(name): make(node, f"logger.{name}") for name, node in nodes})
        self.folder = self.processes.lead(lambda: RunFolder.open(path) if goes_on else RunFolder.create(path, cfg))
        if goes_on:
            self.done = restored(self.folder, cfg, experiment)
            say(f"resuming {self.folder.path} after step {self.done}")
        self.evals: dict[int, dict[str, Any]] = self.processes.lead(lambda: evaluations_of(self.folder.metrics()))
        self.stop, self._saved = EarlyStop.of(cfg), self.done
        self.recent: list[Mapping[str, Any]] = self.processes.lead(lambda: self.stop.recent(self.folder.metrics()))
        self.progress = Progress(cfg.steps, self.done, str(cfg.progress_metric))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(interrupts.at_work(self._last_words))
            with self.processes.whole():
                self.ways = {
                    what if name == LEARNER else f"{name}, {what}": way
                    for name, trainee in self.experiment.trainees.items()
                    for what, way in trainee.learner.ways().items()
                }
            self._summarise("running")
            if warning := note(self.folder.path, self.cfg, self.experiment.trainees.values()):
                say(warning)
            if self.ways:
                say("learner implementation: " + "; ".join(f"{what}: {way}" for what, way in self.ways.items()))
            if self.cfg.quality is not None and self.cfg.reward == self.cfg.quality:
                say("note: reward and quality are the same measure, so their difference is 0 (docs/paper.md)")
            self.progress.__enter__()
            self._at_work = stack.pop_all()
        return self

    def remaining(self) -> Iterator[int]:
        """Yield the remaining step numbers; in a new run, evaluate the learner before step 1."""
        config: Any = OmegaConf.to_container(self.cfg, resolve=True)
        self.loggers.start(config, self.folder.path, self.done)
        if self.experiment.evaluation is not None and 0 not in self.evals:
            say("evaluating the learner before training ...")
            with interrupts.nothing_to_save():
                found = self._evaluate(0)
            self._log(0, found)
        self.stop.check(self.evals)
        if self.cfg.steps == 0:
            self._optimized({"eval": self.evals[0]})  # report a wrong name before the run is marked finished
        for step in range(self.done + 1, self.cfg.steps + 1):
            self._stop_if_asked()
            if self.stop.due(self.evals) or self.stop.left(self.recent):
                say(self.stop.words(self.evals, self.recent, self.done))
                return
            yield step

    def _stop_if_asked(self) -> None:
        """Save a checkpoint and stop if a signal has asked for it; called between steps."""
        if number := int(self.processes.highest(interrupts.asked() or 0)):
            if self.done > self._saved:
                self._save(self.done)
            raise interrupts.Stopped(number)

    def record(
        self,
        step: int,
        episodes: Sequence[Episode],
        metrics: Mapping[str, float],
        advantages: Mapping[int, float],
    ) -> None:
        """Write the step's metrics and transcripts; evaluate and save a checkpoint when due.

        Args:
            advantages: id(turn) -> advantage, for the turns that have one.

        Raises:
            SelfplayError: the optimised metric is not logged.
        """
        self._optimized({**metrics, "eval": self.evals.get(0, {})})  # report a wrong name at the first step
        self._check_watch({**self._evaluated(), **metrics})
        self.recent = self.processes.lead(lambda: self.stop.recent([*self.recent, {"step": step, **metrics}]))
        last = step == self.cfg.steps or bool(self.stop.left(self.recent))
        self.processes.lead(lambda: self.folder.transcribe(step, episodes, advantages))
        due = self.experiment.evaluation is not None and (last or step % self.experiment.evaluation.every == 0)
        self._log(step, {**metrics, **(self._evaluate(step) if due else {})}, episodes if due or last else ())
        counts = due and (self.stop.best_step(self.evals) == step or self.stop.due(self.evals))
        if last or counts or step % self.cfg.checkpoint.every == 0:
            self._save(step)
        self.done = step
        self.progress.update(step, {**self._evaluated(), **metrics}, max(self.evals, default=step))

    def _save(self, step: int) -> None:
        """Write the checkpoint of the step just completed."""
        opponent, trainee, kept = self.experiment.opponent, self.experiment.trainee, self.cfg.checkpoint
        others, frozen = self.experiment.others, {**trainee.update.frozen, **trainee.frozen}
        state = self.processes.gathered(
            {
                "update": trainee.update.state_dict(),
                "learners": {name: one.update.state_dict() for name, one in others.items()},
                "opponent": opponent.state_dict(),
                "trainee": trainee.state_dict(),
                "players": {name: player.state_dict() for name, player in self.experiment.adaptive.items()},
                "rng": torch.get_rng_state(),
            }
        )

        def write() -> None:
            with to_disk(self.folder.checkpoints):
                opponent.store(self.folder.population)
                trainee.update.store(self.folder.buffer)
                for name, one in others.items():
                    one.update.store(self.folder.buffer / name)
                further = {name: (one.learner, one.update.frozen) for name, one in others.items()}
                which = kept.keep, kept.keep_every, frozen, further, self.stop.best_step(self.evals)
                checkpoint.save(self.folder, step, trainee.learner, state, *which)

        with self.processes.whole():
            self.processes.lead(write)
        self._saved = step

    def _evaluated(self) -> dict[str, float]:
        """The results of the last evaluation, as `eval/<name>`."""
        return numbers(self.evals[max(self.evals)], "eval/") if self.evals else {}

    def _check_watch(self, metrics: Mapping[str, object]) -> None:
        """Raise SelfplayError if the user's progress_metric does not exist; roles not asked yet may log it later."""
        watch, roles = str(self.cfg.progress_metric), self.experiment.game.roles
        role, _, rest = watch.partition("/")
        known = watch in metrics or (role in roles and any(key.partition("/")[2] == rest for key in metrics))
        if not known and any(str(override).startswith("progress_metric=") for override in self.cfg.overrides):
            raise SelfplayError(
                f"progress_metric is '{watch}', which this run does not log; choose one of {', '.join(sorted(metrics))}"
            )

    def _log(self, step: int, metrics: Mapping[str, object], episodes: Sequence[Episode] = ()) -> None:
        self.processes.lead(lambda: self.folder.log(step, metrics))
        self.loggers.log(step, metrics, episodes)

    def _evaluate(self, step: int) -> dict[str, Any]:
        start = time.perf_counter()
        with self.processes.whole():
            found = self.experiment.evaluation(self.experiment)
        self.evals[step] = self.processes.lead(lambda: found)
        return {"eval": self.evals[step], "time/eval": time.perf_counter() - start}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)
        with self._at_work:
            try:
                self._end(error)
            except (KeyboardInterrupt, DiskError) as late:
                if self.summary.get("status") == "running":
                    self._end(late)
                raise
            finally:
                self.loggers.finish(self.summary)

    def _end(self, error: BaseException | None) -> None:
        if self.processes.rank > 0:
            return
        if error is None:
            with to_disk(self.folder.curves):
                draw_curves(self.folder.metrics(), self.folder.curves, str(self.cfg.optimized_metric))
            self._summarise("finished")  # written last, so that a finished run is complete
            self._show()
        elif isinstance(error, KeyboardInterrupt | interrupts.Stopped):
            self._summarise("interrupted")
            why = "" if isinstance(error, KeyboardInterrupt) else f" by {error}"
            say(f"interrupted{why} after step {self.done}; resume with: {program()} resume={self.folder.path}")
        elif isinstance(error, DiskError):
            with suppress(DiskError):  # the disk may still be full
                self._summarise("failed", str(error))
            say(f"stopped after step {self.done}; resume with: {program()} resume={self.folder.path}")
        elif is_out_of_memory(error):
            reason = f"out of memory in step {self.done + 1}; lower player.batch_size, update.micro_batch or episodes"
            self._summarise("failed", reason)
            raise SelfplayError(reason) from error
        else:
            self._summarise("failed", str(error))
            say(f"stopped after step {self.done}; the run so far is in {self._place()}")

    def _last_words(self) -> None:
        """Called right before a second signal ends the process, so that the status does not remain "running"."""
        if self.summary.get("status") == "running":
            with suppress(SelfplayError):
                self._summarise("interrupted")

    def _show(self) -> None:
        if self.done == 0 and 0 in self.evals:
            only_figures(self.evals[0])
        elif 0 in self.evals and self.done in self.evals:
            before, after = self.evals[0], self.evals[self.done]
            show = closing_table if "accuracy" in after else closing_figures
            first, last = (
                {k: v for k, v in found.items() if k not in self.cfg.extra_evals} for found in (before, after)
            )
            gains = self.experiment.evaluation.gain(before, after)
            show(first, last, gains)
            for name in self.cfg.extra_evals:
                closing_figures(before[name], after[name], gains[name], title=str(name))
        say(f"run folder: {self._place()}")

    def _place(self) -> Path:
        """The run's folder as one would type it here."""
        here, folder = Path.cwd(), self.folder.path
        return folder.relative_to(here) if folder.is_relative_to(here) else folder

    def _summarise(self, status: str, reason: str | None = None) -> None:
        if self.processes.rank > 0:
            return
        lines = self.folder.metrics()
        summary: dict[str, Any] = {
            "status": status,
            "steps": self.done,
            "seconds": sum(v for m in lines for k, v in m.items() if k.startswith("time/")),
            "tokens": sum(m.get("tokens/generated", 0) for m in lines),
        }
        if self.processes.size > 1:
            summary["processes"] = self.processes.size
        if status == "finished" and self.ways:
            summary["ways"] = self.ways
        if reason is not None:
            summary["reason"] = reason
        if 0 in self.evals and self.done > 0 and self.done in self.evals:
            before, after = self.evals[0], self.evals[self.done]
            summary["eval"] = {"before": before, "after": after, "gain": self.experiment.evaluation.gain(before, after)}
        elif 0 in self.evals and self.cfg.steps == 0:
            summary["eval"] = {"before": self.evals[0]}
        summary |= self.stop.summary(self.evals, self.recent, early=status == "finished" and self.done < self.cfg.steps)
        if status == "finished":
            summary["optimized"] = {"metric": self.cfg.optimized_metric, "value": self.optimized}
        self.folder.summarise(summary)
        self.summary = summary

    @property
    def optimized(self) -> float:
        """The optimised metric at the last step.

        Raises:
            SelfplayError: the last step did not log it.
        """
        return self._optimized(self.folder.metrics()[-1])

    def _optimized(self, line: Mapping[str, Any]) -> float:
        return optimized(line, str(self.cfg.optimized_metric))
