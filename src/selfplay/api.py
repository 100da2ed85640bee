"""Runs from Python: what the command line does, without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.errors import SelfplayError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from selfplay.runs.sweep import Sweep


def train(*overrides: str, folder: str | Path = "outputs/run", **options: object) -> Sweep:
    """Run a config into a folder, and read back what the run left.

    Args:
        overrides: as on the command line, for what lies deeper: "game.answers=8".
        folder: of the run; one that holds a run already is an error.
        options: groups and top-level values by name: game="kuhn" is the override "game=kuhn".

    Returns:
        The run as `selfplay.load` reads it: `metrics`, `turns` and `runs` are data frames.

    Raises:
        SelfplayError: what the command line would say in a sentence.
        hydra.errors.HydraException: an override that does not fit the config.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from selfplay.main import run
    from selfplay.runs import load
    from selfplay.runs.claim import remove_if_empty

    folder = Path(folder).absolute()
    arguments = _arguments(overrides, options)
    if any(argument.startswith("resume=") for argument in arguments):
        raise SelfplayError("train begins a run; to go on with one, type: selfplay resume=<its folder>")
    cfg = _composed([*arguments, f"hydra.run.dir={folder}", "hydra.mode=RUN"], with_hydra=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
        cfg.hydra.overrides.task = arguments
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run(cfg)
    except SelfplayError:
        remove_if_empty(folder)
        raise
    found: Sweep = load(folder)
    return found


def compose(*overrides: str, **options: object) -> DictConfig:
    """The config of a run, for `selfplay.build`, which fills in what it leaves to the game: arguments as of `train`."""
    return _composed(_arguments(overrides, options))


def _arguments(overrides: tuple[str, ...], options: dict[str, object]) -> list[str]:
    from selfplay.commandline import arguments as given
    from selfplay.project import CONF, config_folders, import_from_here

    import_from_here()
    arguments = [*(f"{name}={'null' if value is None else value}" for name, value in options.items()), *overrides]
    return given(arguments, [CONF, *config_folders().values()])


def _composed(arguments: list[str], with_hydra: bool = False) -> DictConfig:
    import hydra

    from selfplay.project import CONF

    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg: DictConfig = hydra.compose("config", arguments, return_hydra_config=with_hydra)
    return cfg
