"""Restricts what the config.yaml of a run's folder may call, because a folder may come from anyone.

A `_target_` is a name that `selfplay.building` imports and calls. In a run's config.yaml it must be a component of
selfplay, an optimizer of torch.optim, or an object in a package that the user trusts by name on the command line. The
module that defines the object decides: `selfplay.games.kuhn.os.system` is os.system.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from selfplay.core import SelfplayError

COMPONENTS = (
    "selfplay.engines.embedded",
    "selfplay.engines.server.engine",
    "selfplay.engines.transformers.continuous",
    "selfplay.evaluations",
    "selfplay.games",
    "selfplay.loggers",
    "selfplay.opponents",
    "selfplay.enumeration",
    "selfplay.threads",
    "selfplay.replay",
    "selfplay.parallel.distributed",
    "selfplay.parallel.sharded",
    "selfplay.players",
    "selfplay.selection",
    "selfplay.referees",
    "selfplay.sandbox.sandbox",
    "selfplay.tasks",
    "selfplay.theory.meta",
    "selfplay.updates",
)
MACHINERY = (  # modules in COMPONENTS whose contents are not components, such as HTTP transport and file caches
    "selfplay.loggers.logger",
    "selfplay.referees.cache",
)
SANDBOX = "selfplay.sandbox.sandbox.Sandbox"
KEYED = ("selfplay.referees.endpoint.Endpoint", "selfplay.referees.served_reward_model.ServedRewardModel")
FUNCTION = "selfplay.referees.function.Function"  # its option `function` is called like a `_target_`


def check_targets(config: DictConfig, file: Path, trusted: Sequence[str] = ()) -> None:
    """Raise SelfplayError if the config calls anything that is not allowed.

    Args:
        file: the config.yaml, for the message.
        trusted: dotted names of packages or modules trusted in addition to selfplay and torch.optim. They are imported.
    """
    for name in trusted:
        if not all(part.isidentifier() for part in str(name).split(".")):
            raise SelfplayError(f"trust names '{name}', which is not a package; give a name like my_package")
    for key, node in _nodes(OmegaConf.to_container(config, resolve=False), ""):
        target = node["_target_"]
        reason = _forbidden(target, node, trusted)
        if reason:
            package = str(target).split(".", 1)[0]
            package = str(target).rpartition(".")[0] if package in ("selfplay", "torch") else package
            raise SelfplayError(
                f"in {file}, {key} calls {target}, {reason}; if you know it and trust the author of this folder, add "
                f"trust={package} (--trust {package} for other commands than a run)"
            )


def trusted_of(value: object) -> list[str]:
    """The packages named by `trust=`: one, a list, or none.

    Raises:
        SelfplayError: the value is neither a name nor a list of names.
    """
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    names = [plain] if isinstance(plain, str) else plain or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SelfplayError(f"trust is {plain}, but it must name packages; give one, or a list like [mine,yours]")
    return names


def _nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping with a `_target_`, at any depth, with its dotted key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        if node.get("_target_") == FUNCTION:
            yield f"{key}.function", {"_target_": node.get("function")}
        for name, inner in node.items():
            yield from _nodes(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, inner in enumerate(node):
            yield from _nodes(inner, f"{key}[{i}]")


def _forbidden(target: object, node: Mapping[Any, Any], trusted: Sequence[str]) -> str:
    """Why the target may not be called; "" if it may."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        return "which is not a valid name"
    if any(_within(target, name) for name in trusted):
        home = _home(target)
        if any(_within(home, name) for name in (*trusted, *COMPONENTS)):
            return ""
        return f"which is defined in {home or 'no module'}, not in {' or '.join(trusted)}"
    if target.startswith("torch.optim."):
        found = _member(target)
        is_optimizer = inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)
        return "" if is_optimizer else "which is not an optimizer"
    module = target.rpartition(".")[0]
    if not _holds_components(module):
        return "which is not a component of selfplay"
    found = _member(target)
    where = getattr(found, "__module__", None)
    # A package may re-export what its own modules define, since the config could name those modules directly.
    own = callable(found) and isinstance(where, str) and _within(where, module) and _holds_components(where)
    if not own or target.rpartition(".")[2].startswith("_"):
        return "which is not a component of selfplay"
    if target == SANDBOX and node.get("isolation") not in ("auto", "bubblewrap", "namespaces"):
        return "which would run code without isolation"
    if target in KEYED and node.get("key") is not None:
        return f"which would send the value of the environment variable {node['key']} to {node.get('url')}"
    return ""


def _holds_components(module: str) -> bool:
    return any(_within(module, name) for name in COMPONENTS) and not any(_within(module, name) for name in MACHINERY)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _member(target: str) -> Any:
    """The object with this dotted name in its module; None if there is none."""
    module, _, name = target.rpartition(".")
    try:
        return vars(importlib.import_module(module)).get(name)
    except ImportError:
        return None


def _home(target: str) -> str:
    """The module that defines the object behind a trusted name; "" if there is no such object or module."""
    first, *rest = target.split(".")
    try:
        found, path = importlib.import_module(first), first
        for part in rest:
            path = f"{path}.{part}"
            if not hasattr(found, part):
                importlib.import_module(path)
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return ""
    home = getattr(found, "__module__", None)
    return home if isinstance(home, str) else ""
