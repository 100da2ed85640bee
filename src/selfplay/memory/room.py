"""The memory of a device, and whether a run fits into it."""

from __future__ import annotations

from dataclasses import dataclass

from selfplay.memory.device import available
from selfplay.memory.phases import Setup, peak

GIB = 2**30
HEADROOM = 0.1  # share of the memory that is left for fragmentation and for what is not counted
LIBRARIES = 0.5  # GiB of a process on a processor before it loads anything; on a GPU, of its context


@dataclass(frozen=True)
class Room:
    """Memory for the processes of a run.

    Attributes:
        bytes: how much there is.
        told: where it is, for messages.
        shared: whether the processes share it; otherwise each has as much.
    """

    bytes: float
    told: str
    shared: bool

    @classmethod
    def on(cls, device: str) -> Room:
        """The memory that a device of this machine has free now.

        Raises:
            SelfplayError: there is no such device here, or its memory is unknown.
        """
        free = available(device)
        return cls(free, f"the {free / GIB:.1f} GiB that {device} has free", device.startswith("cpu"))

    @classmethod
    def given(cls, gib: float) -> Room:
        """The memory of a device elsewhere, for each process."""
        return cls(gib * GIB, f"the {gib:.1f} GiB given", False)

    def needed(self, setup: Setup) -> float:
        """Bytes that a run needs of it."""
        together = setup.processes if setup.on_cpu and self.shared else 1
        return together * (peak(setup) + LIBRARIES * GIB)

    def fits(self, setup: Setup) -> bool:
        """Whether a run needs at most what there is without HEADROOM."""
        return self.needed(setup) <= self.bytes * (1 - HEADROOM)
