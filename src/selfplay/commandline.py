"""What is wrong with a command line before anything is composed, made or written. Nothing heavy is imported here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from selfplay.secrets import holds_secret, told

HEADS = ("+", "~")


def mistake(arguments: Sequence[str], conf: Path) -> str | None:
    """The first thing that Hydra would write down although it is a secret, or fail at without a sentence.

    Args:
        arguments: as typed, without the program.
        conf: the folder whose folders are the groups.
    """
    groups = {path.name for path in conf.iterdir() if path.is_dir()}
    for argument in arguments:
        for key, value in assignments(argument):
            if holds_secret(key.split("@")[0], value):
                return told(key)
    for argument in arguments:
        if (fault := _no_choice(argument, groups)) is not None:
            return fault
    return None


def assignments(argument: str) -> Iterator[tuple[str, object]]:
    """What an argument assigns to which key; a mapping or a list counts as text where it cannot be read."""
    key, equals, text = argument.partition("=")
    key = key.lstrip("+~")
    if not equals:
        yield "the command line", key
        return
    yield key, text
    override = _parsed(argument)
    if override is not None and override.is_sweep_override():
        if type(override.value()).__name__ not in ("ChoiceSweep", "RangeSweep"):  # a glob or an interval has no list
            return
        for choice in override.sweep_string_iterator():
            yield key, str(choice).strip("'\"")
    elif override is not None:
        yield key, override.value()


def _no_choice(argument: str, groups: set[str]) -> str | None:
    override = _parsed(argument)
    if override is None or override.get_key_element().split("@")[0].lstrip("+~") not in groups:
        return None
    if override.is_delete() or override.is_sweep_override():
        return None
    value, group = override.value(), override.key_or_group
    if isinstance(value, str) or (isinstance(value, list) and group in ("logger", "experiment")):
        return None
    if isinstance(value, list):
        return f"{group} is {value}, but only one can be chosen; name one, or sweep over them with -m {group}=a,b"
    shown = "null" if value is None else value
    return f"{group} is {shown}, but it must be the name of a choice; see conf/{group}" + (
        f", where {group}=none is nothing" if value is None else ""
    )


def _parsed(argument: str):  # type: ignore[no-untyped-def]
    """Hydra's reading of an argument; None where it is none, or Hydra will say itself that it cannot read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if argument.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
