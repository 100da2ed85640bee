"""What is wrong with a command line before anything is composed, made or written. Nothing heavy is imported here."""

import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from selfplay.errors import SelfplayError
from selfplay.renamed import refused
from selfplay.secrets import holds_secret, told

ACTIONS = {  # flags of which Hydra takes one
    **dict.fromkeys(("--multirun", "-m"), "multirun"),
    **dict.fromkeys(("--cfg", "-c"), "cfg"),
    **dict.fromkeys(("--info", "-i"), "info"),
    **dict.fromkeys(("--run", "-r"), "run"),
    **dict.fromkeys(("--shell-completion", "-sc"), "completion"),
}
OPEN = ("seats", "update.role_weights")  # mappings of which no yaml need name the keys


def mistake(arguments: Sequence[str], folders: Sequence[Path]) -> str | None:
    """The first thing that Hydra would write down although it is a secret, or fail at without a sentence.

    Args:
        arguments: as typed, without the program.
        folders: of configs; their folders are the groups.
    """
    groups = {path.name for conf in folders for path in conf.iterdir() if path.is_dir()}
    flags = [argument.partition("=")[0] for argument in arguments]
    if len(asked := [flag for flag in flags if flag in ACTIONS]) > 1 and len({ACTIONS[flag] for flag in asked}) > 1:
        return f"{' and '.join(dict.fromkeys(asked))} are two things to do; give one of them"
    for argument in arguments:
        for key, value in assignments(argument):
            if holds_secret(key.split("@")[0], value):
                return told(key)
    for argument in arguments:
        for key, value in assignments(argument):
            if (fault := refused(key, value)) is not None:
                return fault
    for argument in arguments:
        if (fault := _no_choice(argument, groups)) is not None:
            return fault
    if any(map(_brings_configs, arguments)):
        return None  # choices that only Hydra finds
    for argument in arguments:
        if (fault := _unknown_choice(argument, groups, folders)) is not None:
            return fault
    return None


def arguments(typed: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What Hydra is given: what was typed, with "++" before the keys of OPEN.

    Raises:
        SelfplayError: there is a mistake in it.
    """
    if told := mistake(typed, folders):
        raise SelfplayError(told)
    return [f"++{argument}" if _is_open(argument) else argument for argument in typed]


def as_typed(given: Sequence[str]) -> list[str]:
    """What was typed, from what Hydra was given."""
    return [argument[2:] if _is_open(argument[2:]) else argument for argument in given]


def _is_open(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and any(key == name or key.startswith(f"{name}.") for name in OPEN)


def run_command(work: Callable[[], None]) -> None:
    """Run a command; it ends with 1 and one line on stderr where the user has to change something."""
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except SelfplayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def program() -> str:
    """How to start a run, as the user does it: `python run.py` by whoever typed that, else `selfplay`."""
    return "python run.py" if Path(sys.argv[0]).name == "run.py" else "selfplay"


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


def _brings_configs(argument: str) -> bool:
    """Whether it names another folder of configs."""
    return argument.startswith(("--config", "-cd", "-cp", "-cn")) or "hydra.searchpath" in argument


def _unknown_choice(argument: str, groups: set[str], folders: Sequence[Path]) -> str | None:
    """A name that a group does not have, with the nearest ones and then all that it has."""
    override = _parsed(argument)
    group = argument.partition("=")[0].partition("@")[0].lstrip("+")
    if override is None or group not in groups:
        return None
    known = sorted({path.stem for conf in folders for path in (conf / group).glob("*.yaml")})
    for _, value in assignments(argument):
        for name in value if isinstance(value, list) else [value]:
            name = name.strip("'\"") if isinstance(name, str) else name
            if isinstance(name, str) and name.removesuffix(".yaml") not in known and not _is_computed(name):
                near = get_close_matches(name, known, n=3)
                meant = f"did you mean {' or '.join(near)}? " if near else ""
                return f"{group} has no choice '{name}'; {meant}it has {', '.join(known)}"
    return None


def _is_computed(name: str) -> bool:
    """Not a name but an expression, of Hydra's or of OmegaConf's, or one of several that are still to be parted."""
    return any(sign in name for sign in "${}()[],:/")


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
