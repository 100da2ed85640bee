"""How much disk the checkpoints of a run will take, told before it begins."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch.optim import Optimizer

from selfplay.core import Policy, Update
from selfplay.runs.checkpoint import kept

WORTH_A_NOTE = 10 * 10**9  # bytes


def note(folder: Path, cfg: DictConfig, learner: Policy, update: Update) -> str | None:
    """What a user should know of the run's checkpoints; None where they are small.

    A checkpoint is taken for the weights that are trained, what the optimizer will remember of each, and the policies
    that the update has frozen so far.
    """
    weights = sum(p.numel() * p.element_size() for p in learner.parameters())
    each = weights * (1 + _remembered(update.optimizer) + len(update.frozen))
    every = cfg.checkpoint.every
    steps = sorted({*range(every, cfg.steps + 1, every), cfg.steps})
    last = len(kept(dict.fromkeys(steps, each), cfg.steps, cfg.checkpoint.keep, cfg.checkpoint.keep_every))
    total = each * (last + 1)  # one is written before another is removed
    free = shutil.disk_usage(_existing(folder)).free
    if total < WORTH_A_NOTE and total < free:
        return None
    short = f", but {_gb(free)} GB are free" if total > free else ""
    return (
        f"note: a checkpoint takes about {_gb(each)} GB, and the run up to {_gb(total)} GB{short} (checkpoint.keep, "
        "checkpoint.keep_every)"
    )


def _remembered(optimizer: Optimizer) -> int:
    """How many numbers an optimizer keeps for each weight; 2 for Adam's kin."""
    groups: Sequence[dict[str, object]] = optimizer.param_groups
    return 2 if any("betas" in group for group in groups) else int(any(group.get("momentum") for group in groups))


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g}"
