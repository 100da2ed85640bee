"""Sizes that a config leaves to the memory there is: `player.batch_size=auto` and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfplay.core import SelfplayError

if TYPE_CHECKING:
    from selfplay.memory.configured import Given
    from selfplay.memory.phases import Setup
    from selfplay.memory.room import Room

AUTO = "auto"
MOST = 4096  # a larger size saves no time
KEYS = ("update.micro_batch", "player.batch_size", "reward.batch_size")  # in the order in which they are chosen


def take_auto(cfg: DictConfig) -> list[str]:
    """Set, in place, the sizes that are `auto` to 1, so that a config can be checked; return their keys."""
    found = []
    for key in KEYS:
        with suppress(OmegaConfBaseException):  # an interpolation that cannot be resolved, which the check reports
            if OmegaConf.select(cfg, key) == AUTO:
                OmegaConf.update(cfg, key, 1)
                found.append(key)
    return found


def settle(cfg: DictConfig, keys: Sequence[str], earlier: DictConfig | None = None) -> None:
    """Set, in place, the sizes that a run leaves open, and print them.

    Args:
        cfg: a valid config, in which these sizes are 1.
        keys: those that `take_auto` returned.
        earlier: the config of the same run, begun earlier, whose sizes are kept.

    Raises:
        SelfplayError: see `choose`, or the memory of the device is unknown.
    """
    from selfplay.console import say
    from selfplay.memory.configured import Given
    from selfplay.memory.room import HEADROOM, Room
    from selfplay.parallel import current

    before = {} if earlier is None else {key: OmegaConf.select(earlier, key) for key in keys}
    known = {key: size for key, size in before.items() if isinstance(size, int)}
    for key, size in known.items():
        OmegaConf.update(cfg, key, size)
    if not (left := [key for key in keys if key not in known]):
        return
    device = str(OmegaConf.select(cfg, "player.device") or cfg.device)
    try:
        room = Room.on(device)
    except SelfplayError as error:
        raise SelfplayError(f"{left[0]} is auto, but how much memory {device} has is not known; give a size") from error
    choose(cfg, left, Given(current().size), room)
    sizes = " ".join(f"{key}={OmegaConf.select(cfg, key)}" for key in left)
    say(f"{sizes}: the largest powers of 2 up to {MOST} for which the run fits into {1 - HEADROOM:.0%} of {room.told}")


def choose(cfg: DictConfig, keys: Sequence[str], given: Given, room: Room) -> Setup:
    """Set each of the sizes, in place, to the largest power of 2 for which the run fits; return the setup.

    They are chosen one after the other, given those before; as phases of a step follow one another, a size rarely
    takes memory from another.

    Args:
        cfg: a valid config, in which these sizes are 1.
        keys: some of KEYS.
        given: see `Given`.
        room: the memory.

    Raises:
        SelfplayError: there are several learners, the learner or the reward is of another kind, or the run does not fit
            even with 1.
    """
    from selfplay.memory.configured import setup_of
    from selfplay.memory.room import GIB, HEADROOM

    if OmegaConf.select(cfg, "learners"):
        raise SelfplayError(f"{keys[0]} is auto, but the memory of several learners is not calculated; give a size")
    setup = setup_of(cfg, given)
    if setup is None:
        raise SelfplayError(
            f"{keys[0]} is auto, but the memory of player={cfg.player['_target_']} is not calculated; give a size"
        )
    if not room.fits(setup):
        raise SelfplayError(
            f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} auto, but even with 1 the run needs "
            f"{room.needed(setup) / GIB:.1f} GiB, more than {1 - HEADROOM:.0%} of {room.told}; selfplay memory with "
            "the same options says what would make it fit"
        )
    for key in keys:
        resized, size = _resizing(setup, cfg, key), 1
        while 2 * size <= MOST and room.fits(resized(2 * size)):
            size *= 2
        setup = resized(size)
        OmegaConf.update(cfg, key, size)
    return setup


def _resizing(setup: Setup, cfg: DictConfig, key: str) -> Callable[[int], Setup]:
    """The setup as a function of one size."""
    if key == "update.micro_batch":
        return lambda size: replace(setup, micro_batch=size)
    if key == "player.batch_size":
        return lambda size: replace(setup, batch_size=size)
    from selfplay.memory.configured import reads_rewards

    if not reads_rewards(cfg.reward):
        raise SelfplayError(
            f"reward.batch_size is auto, but the memory of reward={cfg.reward['_target_']} is not calculated; give a "
            "size"
        )
    first, *others = setup.scorers  # the reward comes before other referees
    texts = first.texts
    assert texts is not None
    return lambda size: replace(setup, scorers=(replace(first, texts=replace(texts, rows=size)), *others))
