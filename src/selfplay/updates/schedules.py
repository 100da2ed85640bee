"""Learning-rate schedules: pure functions from the number of a step (from 1) to a factor on the optimizer's rate.

A function of the step alone has no state to save, so a resumed run goes on where it was. A learner that begins again
(a PSRO oracle, an exploiter) begins its schedule again.
"""

import math
from typing import Protocol

from selfplay.core import SelfplayError
from selfplay.options import Positive, Steps


class Schedule(Protocol):
    """step, from 1 -> factor, at least 0."""

    def __call__(self, step: int) -> float: ...


def constant(step: int) -> float:
    """1."""
    return 1.0


def linear(step: int, steps: Steps, warmup: Steps = 0) -> float:
    """Up from 1/warmup to 1 over the first `warmup` steps, then down so that the step after the last would be 0."""
    return _rise(step, warmup) * (1.0 - _progress(step, steps, warmup))


def cosine(step: int, steps: Steps, warmup: Steps = 0) -> float:
    """The same way up, then down along half a cosine (SGDR, 1608.03983)."""
    return _rise(step, warmup) * 0.5 * (1.0 + math.cos(math.pi * _progress(step, steps, warmup)))


def harmonic(step: int, half: Positive = 100.0) -> float:
    """1 / (1 + (step - 1) / half), a half at step `half` + 1.

    The sum of the rates diverges and that of their squares does not (Robbins and Monro 1951), so what a constant rate
    leaves of sampling noise goes away.
    """
    if half <= 0:
        raise SelfplayError(f"schedule.half is {half}, but it is a number of steps; choose one above 0")
    return 1.0 / (1.0 + (step - 1) / half)


def _rise(step: int, warmup: int) -> float:
    if warmup < 0:
        raise SelfplayError(f"schedule.warmup is {warmup}, but it is a number of steps; choose 0 or more")
    return min(1.0, step / warmup) if warmup else 1.0


def _progress(step: int, steps: int, warmup: int) -> float:
    """How much of what comes after the warm-up is done, from 0 to 1."""
    if warmup >= steps:
        raise SelfplayError(f"schedule.warmup is {warmup}, but there are {steps} steps; choose fewer than that")
    return min(1.0, max(0.0, (step - 1 - warmup) / (steps - warmup)))
