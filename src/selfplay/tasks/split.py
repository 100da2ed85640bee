"""Hold out questions by a hash, so that the split is the same on every machine and in every run."""

import hashlib

from selfplay.core import SelfplayError


def is_held_out(key: str, share: float) -> bool:
    """Whether the question with this key is in the held-out share (0: none, 1: all)."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def check_share(name: str, share: float) -> None:
    """Raise SelfplayError unless the share is from 0 to 1."""
    if not 0 <= share <= 1:
        raise SelfplayError(f"{name} is {share}, but it is a share of the questions; choose a number from 0 to 1")
