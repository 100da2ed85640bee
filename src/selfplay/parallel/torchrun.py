"""What the environment says about the processes that `torchrun` starts; imports nothing that takes time."""

import os


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether this process is not the first one, which alone writes files and prints."""
    return int(os.environ.get("RANK", "0")) > 0
