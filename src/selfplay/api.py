"""Start runs from Python instead of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.errors import SelfplayError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from selfplay.runs.sweep import Sweep


def train(*overrides: str, folder: str | Path = "outputs/run", **options: object) -> Sweep:
    """Train with a config, write the run to a folder and load the results.

    Args:
        overrides: Hydra overrides as on the command line, e.g. "game.answers=8".
        folder: output folder; an error if it already contains a run.
        options: groups and top-level values as keyword arguments: game="kuhn" means "game=kuhn".

    Returns:
        The run as `selfplay.load` reads it: `metrics`, `turns` and `runs` are data frames.

    Raises:
        SelfplayError: wherever the command line would print an error.
        hydra.errors.HydraException: an override does not match the config.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from selfplay.main import run
    from selfplay.runs import load
    from selfplay.runs.claim import remove_if_empty

    folder = Path(folder).absolute()
    arguments = _arguments(overrides, options)
    if any(argument.startswith("resume=") for argument in arguments):
        raise SelfplayError("train starts a new run; to resume one, use the command line: selfplay resume=<folder>")
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
    """Compose the config of a run for `selfplay.build`; takes the overrides and options of `train`."""
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
