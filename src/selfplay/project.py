"""Locate configs: selfplay's own conf/, that of the user's project, and those of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfplay.errors import SelfplayError

CONF = Path(__file__).with_name("conf").resolve()
ENTRY_POINTS = "selfplay.conf"  # entry-point group with which a package declares its package of yaml files


def config_folders() -> dict[str, Path]:
    """Config folders other than selfplay's own, in search order: provider -> folder.

    These are ./conf, and those of packages with an entry point in the group `selfplay.conf`, for example
    `[project.entry-points."selfplay.conf"] mine = "my_package.conf"`.

    Raises:
        SelfplayError: an entry point names a package that cannot be found.
    """
    found = {}
    here = Path.cwd() / "conf"
    if here.is_dir() and here.resolve() != CONF.resolve():
        found["./conf"] = here
    for entry in _declared(tuple(sys.path)):
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise SelfplayError(
                f"the entry point {entry.name} ({ENTRY_POINTS}) names {entry.value}, but no such folder is installed; "
                "let the package that declares it install its yaml files (tool.setuptools.package-data), or uninstall "
                "that package"
            )
        found[entry.value] = Path(next(iter(spec.submodule_search_locations)))
    return found


@cache
def _declared(path: tuple[str, ...]) -> EntryPoints:
    """Cached, since reading all package metadata takes a fifth of a composition, and Hydra composes twice per run."""
    return entry_points(group=ENTRY_POINTS)


def import_from_here() -> None:
    """Make modules in the current folder importable by `_target_`s, after installed packages."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def function_named(path: str) -> Callable[..., Any]:
    """Import a function by its dotted path.

    Raises:
        SelfplayError: the module cannot be imported, or it has no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SelfplayError(
            f"reward.function is '{path}', which cannot be imported ({error}); use <module>.<function>, where "
            "<module>.py is in the current folder or installed"
        ) from error
    if not callable(found):
        raise SelfplayError(f"reward.function is '{path}', which is a {type(found).__name__}; name a function")
    return found  # type: ignore[no-any-return]
