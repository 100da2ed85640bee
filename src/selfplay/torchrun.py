"""What the environment says about the processes that `torchrun` starts; imports nothing that takes time."""

import os
from collections.abc import Sequence

from selfplay.errors import SelfplayError


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether this process is not the first one, which alone writes files and prints."""
    return int(os.environ.get("RANK", "0")) > 0


def follower_arguments(arguments: Sequence[str]) -> list[str]:
    """What to add to the command line of a process that follows: the first one makes the run's folder.

    Raises:
        SelfplayError: the processes would each do a whole sweep.
    """
    if size() > 1 and {"-m", "--multirun"} & set(arguments):
        raise SelfplayError(
            f"torchrun started {size()} processes, which share one run and no sweep; leave -m out, and start torchrun "
            "once for each run (docs/scale.md)"
        )
    return ["hydra.run.dir=."] if follows() else []
