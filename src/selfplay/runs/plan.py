"""Which jobs a Hydra sweep was to run, read from the `multirun.yaml` that its sweeper left behind.

The expansion is Hydra's own, so that choice(), range() and glob() mean here what they meant when the sweep began.
"""

from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from selfplay.core import SelfplayError

FILE = "multirun.yaml"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
NUMBERED = "${hydra.job.num}"


def planned(folder: Path) -> list[list[str]] | None:
    """The overrides of every job of the sweep in `folder`; job i runs in the sub-folder `i`. None: it is no sweep.

    Raises:
        SelfplayError: the jobs cannot be known from the file: it is broken, another sweeper than Hydra's basic one
            chose them as it went, their folders are not their numbers, their order was drawn by luck, or a glob() is
            over a configuration that is no longer there.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    hydra = _read(file)
    if hydra.sweeper._target_ != BASIC:
        chooser = str(hydra.sweeper._target_).rsplit(".", 1)[-1]
        raise SelfplayError(f"{file} does not name its jobs, for {chooser} chose them as it went; count them yourself")
    subdir = OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"]  # type: ignore[index, call-overload]
    if subdir != NUMBERED:
        raise SelfplayError(f"hydra.sweep.subdir of {file} is '{subdir}', so jobs have no numbers; count them yourself")
    typed: Any = OmegaConf.to_container(hydra, resolve=False)  # "${seed}" is each job's own
    params = [f"{key}={value}" for key, value in (typed["sweeper"]["params"] or {}).items()]
    return _jobs([*params, *typed["overrides"]["task"]], hydra, file)


def default_seed(folder: Path) -> int | None:
    """The seed of a job of the sweep in `folder` whose overrides name none."""
    try:
        seed = OmegaConf.load(folder / FILE).seed
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError):
        return None
    return seed if type(seed) is int else None


def _read(file: Path) -> DictConfig:
    try:
        hydra = OmegaConf.load(file).hydra
        named = "dir" in set(hydra.sweep)  # not its value, which takes the resolvers of a process that runs jobs
        if hydra.sweeper._target_ and named and hydra.overrides.task is not None:
            return hydra  # type: ignore[no-any-return]
    except (YAMLError, OmegaConfBaseException, AttributeError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise SelfplayError(f"{file} is broken ({reason}); restore the file that Hydra wrote") from error
    raise SelfplayError(f"{file} is broken (it names no sweep); restore the file that Hydra wrote")


def _jobs(arguments: list[str], hydra: DictConfig, file: Path) -> list[list[str]]:
    try:
        overrides = OverridesParser.create(_loader(hydra)).parse_overrides(arguments)
        for override in overrides:
            values: Any = override._value
            if getattr(values, "shuffle", False):
                raise SelfplayError(f"{file} shuffles {override.key_or_group}; which job is missing cannot be told")
            if isinstance(values, Glob) and not list(override.sweep_string_iterator()):
                raise SelfplayError(
                    f"{file} sweeps {override.input_line}, but there is no such configuration at "
                    f"{_main(hydra)} any more; put it back to see which jobs are missing"
                )
        return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
    except HydraException as error:
        raise SelfplayError(f"{file} cannot be expanded ({str(error).splitlines()[0]}); count its jobs") from error


def _main(hydra: DictConfig) -> str:
    return next((str(s.path) for s in hydra.runtime.config_sources if s.provider == "main"), "nowhere")


def _loader(hydra: DictConfig) -> ConfigLoaderImpl:
    """What finds the options of a group, where the sweep found them."""
    Plugins.instance()  # registers the kinds of sources
    search = ConfigSearchPathImpl()
    for source in hydra.runtime.config_sources:
        if source.schema != "structured":
            search.append(provider=source.provider, path=f"{source.schema}://{source.path}")
    return ConfigLoaderImpl(search)
