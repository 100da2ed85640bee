"""Which code the config.yaml of a run's folder may name: a folder can come from anybody.

A `_target_` is a name that `selfplay.building` imports and calls. Of a folder's config it must name a component of
selfplay, an optimizer of torch.optim, or something in a package that the user trusts by name on the command line. What
counts is where the named object was defined, not how it is spelled: `selfplay.games.kuhn.os.system` is os.system.
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
    "selfplay.engines.transformers.continuous",
    "selfplay.evaluations",
    "selfplay.games",
    "selfplay.loggers",
    "selfplay.opponents",
    "selfplay.enumeration",
    "selfplay.players",
    "selfplay.referees",
    "selfplay.sandbox.sandbox",
    "selfplay.tasks",
    "selfplay.theory.meta",
    "selfplay.updates",
)
MACHINERY = (  # inside them, but no component: what isolates processes, speaks HTTP, writes files
    "selfplay.loggers.logger",
    "selfplay.referees.cache",
    "selfplay.referees.transport",
)
SANDBOX, ENDPOINT = "selfplay.sandbox.sandbox.Sandbox", "selfplay.referees.endpoint.Endpoint"
FUNCTION = "selfplay.referees.function.Function"  # its option `function` is called like a `_target_`


def check_targets(config: DictConfig, file: Path, trusted: Sequence[str] = ()) -> None:
    """Raise SelfplayError unless everything that the config of `file` would have called may be.

    Args:
        trusted: packages or modules, with dots, which the user trusts besides selfplay and torch.optim. They are
            imported.
    """
    for name in trusted:
        if not all(part.isidentifier() for part in str(name).split(".")):
            raise SelfplayError(f"trust names '{name}', which is no package; give a name like my_package")
    for key, node in _nodes(OmegaConf.to_container(config, resolve=False), ""):
        target = node["_target_"]
        reason = _forbidden(target, node, trusted)
        if reason:
            package = str(target).split(".", 1)[0]
            package = str(target).rpartition(".")[0] if package in ("selfplay", "torch") else package
            raise SelfplayError(
                f"{file} has {key} call {target}, {reason}; if you know it and trust whoever made this folder, add "
                f"trust={package} (--trust {package} for cross-play and export)"
            )


def trusted_of(value: object) -> list[str]:
    """The packages that `trust=` names: one, a list, or none.

    Raises:
        SelfplayError: it is neither.
    """
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    names = [plain] if isinstance(plain, str) else plain or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SelfplayError(f"trust is {plain}, but it must name packages; give one, or a list like [mine,yours]")
    return names


def _nodes(node: Any, key: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping with a `_target_`, wherever it is, and its key."""
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
        return "which is no name"
    if any(_within(target, name) for name in trusted):
        home = _home(target)
        if any(_within(home, name) for name in (*trusted, *COMPONENTS)):
            return ""
        return f"which is defined in {home or 'no module'}, not in {' or '.join(trusted)}"
    if target.startswith("torch.optim."):
        found = _member(target)
        return "" if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) else "which is no optimizer"
    module = target.rpartition(".")[0]
    if not _holds_components(module):
        return "which is no component of selfplay"
    found = _member(target)
    where = getattr(found, "__module__", None)
    # A package may export what its own modules define: the config could name those modules as well.
    own = callable(found) and isinstance(where, str) and _within(where, module) and _holds_components(where)
    if not own or target.rpartition(".")[2].startswith("_"):
        return "which is no component of selfplay"
    if target == SANDBOX and node.get("isolation") not in ("auto", "bubblewrap", "namespaces"):
        return "which would run code without isolation"
    if target == ENDPOINT and node.get("key") is not None:
        return f"which would send the value of the environment variable {node['key']} to {node.get('url')}"
    return ""


def _holds_components(module: str) -> bool:
    return any(_within(module, name) for name in COMPONENTS) and not any(_within(module, name) for name in MACHINERY)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _member(target: str) -> Any:
    """What a module has by the name; None if there is none."""
    module, _, name = target.rpartition(".")
    try:
        return vars(importlib.import_module(module)).get(name)
    except ImportError:
        return None


def _home(target: str) -> str:
    """The module in which what a trusted name leads to was defined; "" where there is nothing, or none."""
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
