"""Entries of a config with their interpolations followed: what is there, and where it stands in truth."""

import re
from typing import Any

from omegaconf import Container, DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from selfplay.core import SelfplayError

INNERMOST = re.compile(r"\$\{([^${}]*)\}")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


def followed(parent: DictConfig | ListConfig, name: Any, key: str, read: set[str]) -> tuple[Any, str]:
    """The entry `name` of a node and its full key: that of what an interpolation leads to. All these go into `read`.

    Raises:
        SelfplayError: it is not there, has no value yet (???), or leads nowhere.
    """
    node: Any = parent._get_node(name, validate_access=False)
    if node is None:
        raise SelfplayError(f"{key} is not there; it has been taken away (~{key}), so put it back")
    if node._is_missing():
        raise SelfplayError(f"{key} is not given, and it has no default; give it with {key}=<value>")
    if node._is_interpolation():
        raw = str(node._value())
        read |= names_in(raw)
        try:
            node = node._dereference_node()
        except (OmegaConfBaseException, RecursionError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise SelfplayError(f"{key} is '{raw}', which leads nowhere ({reason}); give it a value") from None
        where = str(node._get_full_key(None))
        if where and node._get_parent() is not None:
            read.add(where)
            key = where
        if node._is_missing():
            raise SelfplayError(f"{key} is not given, and it has no default; give it with {key}=<value>")
    if isinstance(node, Container):
        return (None if node._is_none() else node), key
    return node._value(), key


def names_in(raw: str) -> set[str]:
    """The names that the interpolations in a text may refer to."""
    found: set[str] = set()
    while True:
        found |= {name for inner in INNERMOST.findall(raw) for name in NAME.findall(inner)}
        shorter = INNERMOST.sub("", raw)
        if shorter == raw:
            return found
        raw = shorter
