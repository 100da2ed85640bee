"""Information from `torchrun`'s environment variables. Imports nothing slow."""

import os
from collections.abc import Sequence

from selfplay.errors import SelfplayError


def size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether this is not the first process; only the first one writes files and prints.

    RANK counts only beside WORLD_SIZE: other programs set it, too.
    """
    return size() > 1 and int(os.environ.get("RANK", "0")) > 0


def follower_arguments(arguments: Sequence[str]) -> list[str]:
    """Extra arguments for all processes but the first, which creates the run's folder.

    Raises:
        SelfplayError: each process would run the whole sweep.
    """
    if size() > 1 and {"-m", "--multirun"} & set(arguments):
        raise SelfplayError(
            f"torchrun started {size()} processes, which can share a run, not a sweep; leave out -m, and start "
            "torchrun once for each run (docs/scale.md)"
        )
    return ["hydra.run.dir=."] if follows() else []
