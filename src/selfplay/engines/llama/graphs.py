"""Token steps recorded as CUDA graphs: one launch instead of about a thousand.

A graph reads and writes fixed memory, so it holds while the rows of a decode state and their cache stay in place. The
recorded step attends to all columns of the cache, of which later ones are hidden, and finds the column of the new token
in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor]], Replay]
STEADY = 2  # steps for which rows must have stayed before a step is recorded
WORTH = 4  # steps that a recording must be able to serve; recording costs about three


class Fixed(Protocol):
    """What is recorded of a decode state."""

    now: int
    new: Tensor

    def fixed_step(self, tokens: Tensor, now: Tensor) -> Tensor: ...


def capture_on(device: torch.device) -> Capture | None:
    """What records a computation on the device, or None."""
    return on_cuda if device.type == "cuda" else None


def on_cuda(compute: Callable[[], Tensor]) -> Replay:
    """Record a computation without waits; each replay overwrites the tensor that the one before returned."""
    stream, here = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        compute()  # libraries allocate their workspaces at the first call
    here.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = compute()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class RecordedSteps:
    """The recording of a decode state's step, made anew when rows or cache have moved.

    Args:
        capture: records a computation.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture, self.steady = capture, 0
        self.replay: Replay | None = None

    def rows_moved(self) -> None:
        self.replay, self.steady = None, 0

    def cache_moved(self) -> None:
        self.replay = None

    def step(self, state: Fixed, tokens: Tensor) -> Tensor | None:
        """The logits of the next step by a recording; None where it is not worth one."""
        self.steady += 1
        if self.replay is None:
            if self.steady <= STEADY or state.new.shape[3] - state.now < WORTH:
                return None
            own, now = tokens.clone(), torch.full((1,), state.now, device=tokens.device)
            self.tokens, self.now = own, now
            self.replay = self.capture(lambda: state.fixed_step(own, now))
        self.tokens.copy_(tokens)
        self.now.fill_(state.now)
        return self.replay()
