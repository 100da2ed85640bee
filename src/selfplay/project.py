"""Where configs come from: selfplay's own conf/, the user's project, and installed packages that bring some."""

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
ENTRY_POINTS = "selfplay.conf"  # the group under which a package names its package of yaml files


def config_folders() -> dict[str, Path]:
    """Folders of configs beside selfplay's own, in the order in which they are searched: provider -> folder.

    They are ./conf, and those of packages with an entry point of the group `selfplay.conf`, say
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
                f"the entry point {entry.name} ({ENTRY_POINTS}) names {entry.value}, which is no package; mend or "
                f"uninstall the package that declares it"
            )
        found[entry.value] = Path(next(iter(spec.submodule_search_locations)))
    return found


@cache
def _declared(path: tuple[str, ...]) -> EntryPoints:
    """Reading the metadata of all that is installed takes a fifth of a composition, and Hydra composes twice a run."""
    return entry_points(group=ENTRY_POINTS)


def import_from_here() -> None:
    """Let `_target_`s name modules of the current folder, behind everything that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def function_named(path: str) -> Callable[..., Any]:
    """The function that a path with dots leads to.

    Raises:
        SelfplayError: no module of that name can be imported, or it has no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SelfplayError(
            f"reward.function is '{path}', which cannot be imported ({error}); give <module>.<function>, where "
            "<module>.py is in the current folder or installed"
        ) from error
    if not callable(found):
        raise SelfplayError(f"reward.function is '{path}', which is a {type(found).__name__}; name a function")
    return found  # type: ignore[no-any-return]
