"""Compose the config of a run from Python, as the command line does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(*overrides: str, **options: object) -> DictConfig:
    """Compose the config of a run for `selfplay.build`; takes the overrides and options of `train`."""
    return composed(arguments_of(overrides, options))


def arguments_of(overrides: tuple[str, ...], options: dict[str, object]) -> list[str]:
    """The arguments for Hydra of overrides and options, see `selfplay.train`.

    Raises:
        SelfplayError: an argument is wrong.
    """
    from selfplay.commandline import arguments as given
    from selfplay.project import CONF, config_folders, import_from_here

    import_from_here()
    arguments = [*(f"{name}={'null' if value is None else value}" for name, value in options.items()), *overrides]
    return given(arguments, [CONF, *config_folders().values()])


def composed(arguments: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of these arguments.

    Args:
        arguments: what `arguments_of` returned.
        with_hydra: whether Hydra's own node is part of it.
    """
    import hydra

    from selfplay.project import CONF

    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg: DictConfig = hydra.compose("config", arguments, return_hydra_config=with_hydra)
    return cfg
