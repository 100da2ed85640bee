"""Resume a run from its newest checkpoint, in all of its processes."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from selfplay import renamed
from selfplay.core import SelfplayError
from selfplay.experiment import Experiment
from selfplay.parallel import current
from selfplay.runs import checkpoint
from selfplay.runs.early_stop import EarlyStop, evaluations_of
from selfplay.runs.folder import RunFolder


def restored(folder: RunFolder, cfg: DictConfig, experiment: Experiment) -> int:
    """Restore the experiment, and delete what the run wrote after the checkpoint; return the checkpoint's step.

    Without a checkpoint the run starts from the beginning (step 0).

    Raises:
        SelfplayError: the checkpoint is broken or has more steps than `cfg`, or the run has lost its checkpoints.
    """
    found = current().lead(lambda: _latest(folder, cfg.steps))
    if found is not None:
        current().together(lambda: _load(found[1], folder, experiment))
        for trainee in experiment.trainees.values():
            trainee.scatter()
    current().lead(lambda: _rewind(folder, cfg, None if found is None else found[0]))
    return 0 if found is None else found[0]


def _latest(folder: RunFolder, steps: int) -> tuple[int, Path] | None:
    """The step and path of the newest checkpoint; None if the run has not saved one yet."""
    found = checkpoint.latest(folder)
    logged = max((line["step"] for line in folder.metrics()), default=0)
    if found is None and logged > folder.config.checkpoint.every:
        raise SelfplayError(
            f"{folder.path} has records up to step {logged} but no checkpoint; restore one in {folder.checkpoints}, "
            "or start a new run"
        )
    if found is not None and steps < found[0]:
        raise SelfplayError(
            f"steps is {steps}, but {folder.path} has already done {found[0]}; give more steps, for example "
            f"steps={2 * found[0]}"
        )
    return found


def _load(path: Path, folder: RunFolder, experiment: Experiment) -> None:
    try:
        state, frozen = checkpoint.load(path, experiment.learner)
        experiment.update.load_state_dict(state["update"])  # type: ignore[arg-type]
        experiment.update.fetch(folder.buffer)
        opponent, trainee, named = experiment.opponent, experiment.trainee, renamed.translated_state(state)
        opponent.load_state_dict(named["opponent"], folder.population, trainee.read)
        trainee.load_state_dict(named["trainee"], opponent.main, frozen)
        for name, other in experiment.others.items():
            here = path / checkpoint.LEARNERS / name
            kept = checkpoint.load_policies(here, other.learner, named["frozen_of"][name])
            other.update.load_state_dict(named["learners"][name])
            other.update.fetch(folder.buffer / name)
            other.load_state_dict(None, None, kept)
        for name, player in experiment.adaptive.items():
            player.load_state_dict(named["players"][name])
        torch.set_rng_state(state["rng"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(
            f"the checkpoint {path} does not match this run's player and update ({reason}); "
            "delete it to resume from the previous checkpoint"
        ) from error


def _rewind(folder: RunFolder, cfg: DictConfig, step: int | None) -> None:
    if step is not None:
        kept = cfg.checkpoint
        evaluations = {at: found for at, found in evaluations_of(folder.metrics()).items() if at <= step}
        best = EarlyStop.of(cfg).best_step(evaluations)
        checkpoint.prune(folder, step, kept.keep, kept.keep_every, best)  # a kill may have come before
    folder.configure(cfg)
    folder.rewind(-1 if step is None else step)  # -1 deletes all: the evaluated learner was not saved
