"""Estimates the disk space that a run's checkpoints will take, before it starts."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch.optim import Optimizer

from selfplay.runs.checkpoint import kept
from selfplay.runs.early_stop import EarlyStop
from selfplay.trainee import Trainee

WORTH_A_NOTE = 10 * 10**9  # bytes


def note(folder: Path, cfg: DictConfig, trainees: Iterable[Trainee]) -> str | None:
    """A note on the size of the run's checkpoints; None if they are small and fit on the disk.

    A checkpoint is estimated as the trained weights, their optimizer state, and the policies that the update has
    frozen so far.
    """
    each = sum(_size(trainee) for trainee in trainees)
    every = cfg.checkpoint.every
    steps = sorted({*range(every, cfg.steps + 1, every), cfg.steps})
    last = len(kept(dict.fromkeys(steps, each), cfg.steps, cfg.checkpoint.keep, cfg.checkpoint.keep_every))
    best = int(EarlyStop.of(cfg).metric is not None)
    total = each * (last + best + 1)  # a new one is written before an old one is deleted
    free = shutil.disk_usage(_existing(folder)).free
    if total < WORTH_A_NOTE and total < free:
        return None
    short = f", but {_gb(free)} GB are free" if total > free else ""
    return (
        f"note: a checkpoint takes about {_gb(each)} GB, and the run up to {_gb(total)} GB{short} (checkpoint.keep, "
        "checkpoint.keep_every)"
    )


def _size(trainee: Trainee) -> int:
    """The bytes of a learner in a checkpoint."""
    weights = sum(p.numel() * p.element_size() for p in trainee.learner.parameters())
    return weights * (1 + _state_per_weight(trainee.update.optimizer) + len(trainee.update.frozen))


def _state_per_weight(optimizer: Optimizer) -> int:
    """Optimizer state values per weight: 2 for Adam and its variants."""
    groups: Sequence[dict[str, object]] = optimizer.param_groups
    return 2 if any("betas" in group for group in groups) else int(any(group.get("momentum") for group in groups))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g}"
