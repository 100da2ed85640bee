"""Learning-rate schedules: pure functions from the step number (from 1) to a factor on the learning rate.

Schedules have no state, so a resumed run continues exactly. A restarted learner (a PSRO oracle, an exploiter) restarts
its schedule.
"""

import math
from typing import Protocol

from selfplay.core import SelfplayError
from selfplay.options import Positive, Steps


class Schedule(Protocol):
    """step number, from 1 -> factor >= 0."""

    def __call__(self, step: int) -> float: ...


def constant(step: int) -> float:
    """Always 1."""
    return 1.0


def linear(step: int, steps: Steps, warmup: Steps = 0) -> float:
    """Linear warm-up from 1/warmup to 1, then linear decay that would reach 0 at step `steps` + 1.

    Args:
        steps: total number of steps.
        warmup: number of warm-up steps.
    """
    return _rise(step, warmup) * (1.0 - _progress(step, steps, warmup))


def cosine(step: int, steps: Steps, warmup: Steps = 0) -> float:
    """Linear warm-up as in `linear`, then decay along half a cosine (SGDR, 1608.03983).

    Args:
        steps: total number of steps.
        warmup: number of warm-up steps.
    """
    return _rise(step, warmup) * 0.5 * (1.0 + math.cos(math.pi * _progress(step, steps, warmup)))


def harmonic(step: int, half: Positive = 100.0) -> float:
    """1 / (1 + (step - 1) / half).

    The sum of the rates diverges while that of their squares converges (Robbins and Monro 1951), so sampling noise
    averages out.

    Args:
        half: number of steps after which the rate has halved.
    """
    if half <= 0:
        raise SelfplayError(f"schedule.half is {half}; choose a number of steps above 0")
    return 1.0 / (1.0 + (step - 1) / half)


def _rise(step: int, warmup: int) -> float:
    if warmup < 0:
        raise SelfplayError(f"schedule.warmup is {warmup}; choose 0 or more steps")
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, steps: int, warmup: int) -> float:
    """The fraction of the steps after warm-up that is done, from 0 to 1."""
    if warmup >= steps:
        raise SelfplayError(f"schedule.warmup is {warmup}, but there are only {steps} steps; choose fewer than that")
    return min(1.0, max(0.0, (step - 1 - warmup) / (steps - warmup)))
