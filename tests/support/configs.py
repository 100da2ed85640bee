"""Configs as the command line composes them."""

import copy
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from selfplay.building import make
from selfplay.commandline import arguments
from selfplay.derived import fill_in

CONF = Path(__file__).parents[2] / "conf"


def config(*overrides: str) -> DictConfig:
    """The config as `run.py` would compose it."""
    return copy.deepcopy(_composed(overrides))


def filled(*overrides: str) -> DictConfig:
    """The same, with what it leaves to its game."""
    cfg = config(*overrides)
    fill_in(cfg, make(cfg.game, "game"))
    return cfg


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", arguments(overrides, [CONF]))
