"""Resolve the interpolations in a config, keeping track of the key that each one refers to."""

import re
from typing import Any

from omegaconf import Container, DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from selfplay.core import SelfplayError

INNERMOST = re.compile(r"\$\{([^${}]*)\}")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


def followed(parent: DictConfig | ListConfig, name: Any, key: str, read: set[str]) -> tuple[Any, str]:
    """Look up an entry, following an interpolation.

    Args:
        parent: the node that contains the entry.
        name: the key or index of the entry.
        key: its dotted key, for messages.
        read: a set to which the keys that the interpolation refers to are added.

    Returns:
        The value, and its dotted key: that of the target if the entry is an interpolation.

    Raises:
        SelfplayError: the entry is missing, has no value (???), or refers to nothing.
    """
    node: Any = parent._get_node(name, validate_access=False)
    if node is None:
        raise SelfplayError(f"{key} is missing; it was removed with ~{key}, so put it back")
    if node._is_missing():
        raise SelfplayError(f"{key} is not set and has no default; set it with {key}=<value>")
    if node._is_interpolation():
        raw = str(node._value())
        read |= names_in(raw)
        try:
            node = node._dereference_node()
        except (OmegaConfBaseException, RecursionError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise SelfplayError(f"{key} is '{raw}', which cannot be resolved ({reason}); give it a value") from None
        where = str(node._get_full_key(None))
        if where and node._get_parent() is not None:
            read.add(where)
            key = where
        if node._is_missing():
            raise SelfplayError(f"{key} is not set and has no default; set it with {key}=<value>")
    if isinstance(node, Container):
        return (None if node._is_none() else node), key
    return node._value(), key


def names_in(raw: str) -> set[str]:
    """All names that the interpolations in a string may refer to."""
    found: set[str] = set()
    while True:
        found |= {name for inner in INNERMOST.findall(raw) for name in NAME.findall(inner)}
        shorter = INNERMOST.sub("", raw)
        if shorter == raw:
            return found
        raw = shorter
