"""Lists the jobs that a Hydra sweep planned, from the `multirun.yaml` that its sweeper wrote.

Hydra itself expands the overrides, so choice(), range() and glob() mean the same as when the sweep started.
"""

from itertools import islice
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf

from selfplay.commandline import as_typed
from selfplay.core import SelfplayError
from selfplay.runs.safe_yaml import read_mapping

FILE = "multirun.yaml"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
NUMBERED = "${hydra.job.num}"
MOST = 10_000  # jobs; larger sweeps are not listed


def planned(folder: Path) -> list[list[str]] | None:
    """The overrides of every job of the sweep in `folder`, or None if it is not a sweep; job i runs in subfolder `i`.

    Raises:
        SelfplayError: the file does not determine the jobs: it is broken, a sweeper other than Hydra's basic one chose
            them during the sweep, job folders are not numbered, the order was shuffled, or a glob() refers to configs
            that no longer exist.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    hydra = _read(file)["hydra"]
    chooser = hydra["sweeper"]["_target_"]
    if chooser != BASIC:
        name = str(chooser).rsplit(".", 1)[-1]
        raise SelfplayError(f"{file} does not list its jobs: {name} chose them during the sweep; count them yourself")
    subdir = hydra["sweep"].get("subdir")
    if subdir != NUMBERED:
        raise SelfplayError(f"hydra.sweep.subdir of {file} is '{subdir}', so jobs have no numbers; count them yourself")
    params = [f"{key}={value}" for key, value in (hydra["sweeper"].get("params") or {}).items()]
    return _jobs([*params, *hydra["overrides"]["task"]], hydra, file)


def default_seed(folder: Path) -> int | None:
    """The default seed of the sweep in `folder`, for jobs whose overrides set none."""
    try:
        seed = _read(folder / FILE).get("seed")
    except SelfplayError:
        return None
    return seed if type(seed) is int else None


def _read(file: Path) -> dict[str, Any]:
    """The file as plain data. `${...}` stays text, because a value such as "${seed}" differs between jobs."""
    found: Any = OmegaConf.to_container(read_mapping(file, interpolations=True), resolve=False)
    broken = f"{file} is broken (it names no sweep); restore the file that Hydra wrote"
    try:
        hydra, sources = found["hydra"], found["hydra"]["runtime"]["config_sources"]
        named = [hydra["sweeper"]["_target_"], hydra["sweep"]["dir"], *hydra["overrides"]["task"]]
        named += [source[key] for source in sources for key in ("path", "schema", "provider")]
        params = hydra["sweeper"].get("params") or {}
    except (LookupError, TypeError, AttributeError) as error:
        raise SelfplayError(broken) from error
    if not all(isinstance(text, str) for text in named) or not isinstance(params, dict):
        raise SelfplayError(broken)
    return dict(found)


def _jobs(arguments: list[str], hydra: dict[str, Any], file: Path) -> list[list[str]]:
    try:
        overrides = OverridesParser.create(_loader(hydra)).parse_overrides(arguments)
        count = 1
        for override in overrides:
            values: Any = override._value
            if getattr(values, "shuffle", False):
                raise SelfplayError(f"{file} shuffles {override.key_or_group}; missing jobs cannot be identified")
            if isinstance(values, Glob) and not list(override.sweep_string_iterator()):
                raise SelfplayError(
                    f"{file} sweeps {override.input_line}, but {_main(hydra)} no longer has such a config; restore it "
                    "to see which jobs are missing"
                )
            if override.is_sweep_override():
                count *= sum(1 for _ in islice(override.sweep_string_iterator(), MOST))
            if count >= MOST:
                raise SelfplayError(f"{file} plans {MOST} jobs or more, too many to list; count them yourself")
        return [as_typed(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
    except HydraException as error:
        raise SelfplayError(f"{file} cannot be expanded ({str(error).splitlines()[0]}); count its jobs") from error


def _main(hydra: dict[str, Any]) -> str:
    return next((s["path"] for s in hydra["runtime"]["config_sources"] if s["provider"] == "main"), "nowhere")


def _loader(hydra: dict[str, Any]) -> ConfigLoaderImpl:
    """A config loader with the search path of the sweep, limited to folders and to packages within `hydra`."""
    Plugins.instance()  # registers the source types
    search = ConfigSearchPathImpl()
    for source in hydra["runtime"]["config_sources"]:
        if source["schema"] == "file" or (source["schema"] == "pkg" and source["path"].split(".")[0] == "hydra"):
            search.append(provider=source["provider"], path=f"{source['schema']}://{source['path']}")
    return ConfigLoaderImpl(search)
