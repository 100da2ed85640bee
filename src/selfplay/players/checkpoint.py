"""A player that begins with the weights of a checkpoint."""

from pathlib import Path

from selfplay import digests
from selfplay.core import Policy, SelfplayError
from selfplay.options import Name


def checkpoint(player: Policy, folder: Name) -> Policy:
    """The player with the weights that a run saved: a fixed opponent in `players`, or the start of a learner.

    Args:
        player: the player that made the checkpoint, as its run's config describes it.
        folder: <run>/checkpoints/<step>.

    Raises:
        SelfplayError: there is no such folder, a file in it is broken, or it was made by another kind of player.
    """
    place = Path(folder)
    if not place.is_dir():
        raise SelfplayError(f"there is no checkpoint in {folder}; give the folder <run>/checkpoints/<step>")
    digests.check(place, "give another checkpoint")
    player.load(place)
    return player
