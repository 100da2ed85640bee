"""Check the options of `_partial_` functions when the config is read, rather than when they are called."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf

from selfplay.core import SelfplayError


def check_partials(node: Any, name: str) -> None:
    """Raise SelfplayError if a `_partial_` node in the config has an option that its target does not take.

    This happens when a `_target_` is changed on the command line, since Hydra keeps the options of the previous one.
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
    except ValueError:  # a C function without a signature
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for option in node:
        if not str(option).startswith("_") and option not in known:
            raise SelfplayError(
                f"{name} is {node['_target_']}, which has no option '{option}' (given: {node[option]}); remove it with "
                f"~{name}.{option}"
            )
