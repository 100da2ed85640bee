"""Start runs from Python instead of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.errors import SelfplayError

if TYPE_CHECKING:
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

    from selfplay.composing import arguments_of, composed
    from selfplay.main import run
    from selfplay.runs import load
    from selfplay.runs.claim import remove_if_empty

    folder = Path(folder).absolute()
    arguments = arguments_of(overrides, options)
    if any(argument.startswith("resume=") for argument in arguments):
        raise SelfplayError("train starts a new run; to resume one, use the command line: selfplay resume=<folder>")
    cfg = composed([*arguments, f"hydra.run.dir={folder}", "hydra.mode=RUN"], with_hydra=True)
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
