"""Functions that a config names and somebody calls later: whether they know the options given to them is told now."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf

from selfplay.core import SelfplayError


def check_partials(node: Any, name: str) -> None:
    """Raise SelfplayError where a `_partial_` of a config has an option that its target does not take.

    A target that is changed on the command line keeps the options of the one before it, which Hydra merges.
    """
    _check(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, name)


def _check(node: Any, name: str) -> None:
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        _check(value, f"{name}.{key}")
    if not (isinstance(node, Mapping) and node.get("_partial_") is True and isinstance(node.get("_target_"), str)):
        return
    try:
        known = inspect.signature(get_object(node["_target_"])).parameters
    except ValueError:  # written in C: it tells nobody
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for option in node:
        if not str(option).startswith("_") and option not in known:
            raise SelfplayError(
                f"{name} is {node['_target_']}, which has no option '{option}' (given: {node[option]}); remove it with "
                f"~{name}.{option}"
            )
