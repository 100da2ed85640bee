"""Reads untrusted YAML as plain data: no object is constructed, no alias expanded, no interpolation resolved."""

from io import StringIO
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from selfplay.errors import SelfplayError

LARGEST = 2**23  # bytes
DEEPEST = 64  # levels of nesting


def read_mapping(file: Path, interpolations: bool = False) -> DictConfig:
    """Read the mapping in a YAML file.

    Args:
        interpolations: whether values may contain `${...}`. These are resolved when read through the DictConfig, so
            convert it with `OmegaConf.to_container(..., resolve=False)` first.

    Raises:
        SelfplayError: the file cannot be read, is malformed, too large or too deep, is not a mapping, or contains
            something that no run writes: aliases (which can expand without bound), tags or interpolations.
    """
    remedy = "restore the file that the run wrote"
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
    except OSError as error:
        raise SelfplayError(f"{file} cannot be read ({error.strerror or error}); {remedy}") from error
    try:
        if len(raw) > LARGEST:
            raise SelfplayError(f"{file} is larger than {LARGEST >> 20} MiB, too large for a configuration; {remedy}")
        text = raw.decode("utf-8")
        if found := _foreign(text, interpolations):
            raise SelfplayError(f"{file} holds {found}, which no run writes; {remedy}, or write the value in its place")
        config = OmegaConf.load(StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:  # OSError: a bare scalar
        raise SelfplayError(f"{file} is broken ({str(error).splitlines()[0]}); {remedy}") from error
    if not isinstance(config, DictConfig) or not config:
        what = "nothing" if not config else "a list, not a configuration"
        raise SelfplayError(f"{file} holds {what}; {remedy}")
    return config


def _foreign(text: str, interpolations: bool) -> str:
    """The first construct that no run writes, or "". Only parser events are read; no object is constructed."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return f"an alias in line {line}"
        if getattr(event, "tag", None) is not None:
            return f"the tag {event.tag} in line {line}"
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value and not interpolations:
            return f"an interpolation in line {line}"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            return f"more than {DEEPEST} levels in line {line}"
    return ""
