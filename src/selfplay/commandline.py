"""Check a command line before anything is composed, built or written. Imports nothing slow."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from selfplay.errors import SelfplayError
from selfplay.renamed import refused
from selfplay.secrets import holds_secret, secret_error
from selfplay.torchrun import follows

ACTIONS = {  # mutually exclusive flags of Hydra
    **dict.fromkeys(("--multirun", "-m"), "multirun"),
    **dict.fromkeys(("--cfg", "-c"), "cfg"),
    **dict.fromkeys(("--info", "-i"), "info"),
    **dict.fromkeys(("--run", "-r"), "run"),
    **dict.fromkeys(("--shell-completion", "-sc"), "completion"),
}
# mappings whose keys no yaml has to list
OPEN = ("seats", "update.role_weights", "learners", "stop.above", "stop.below")
DEFAULT = re.compile(r"~(seats\.\w+)")  # takes an entry away, whether a yaml lists it or not


def mistake(arguments: Sequence[str], folders: Sequence[Path]) -> str | None:
    """The first error in a command line: a secret that Hydra would save, or a mistake that it reports unclearly.

    Args:
        arguments: the command-line arguments, without the program name.
        folders: config folders; their subfolders are the groups.
    """
    groups = {path.name for conf in folders for path in conf.iterdir() if path.is_dir()}
    flags = [argument.partition("=")[0] for argument in arguments]
    if len(asked := [flag for flag in flags if flag in ACTIONS]) > 1 and len({ACTIONS[flag] for flag in asked}) > 1:
        return f"{' and '.join(dict.fromkeys(asked))} exclude each other; use only one of them"
    for argument in arguments:
        for key, value in assignments(argument):
            if holds_secret(key.split("@")[0], value):
                return secret_error(key)
    for argument in arguments:
        for key, value in assignments(argument):
            if (fault := refused(key, value)) is not None:
                return fault
    for argument in arguments:
        if (fault := _no_choice(argument, groups)) is not None:
            return fault
    if any(map(_brings_configs, arguments)):
        return None  # only Hydra can resolve these choices
    for argument in arguments:
        if (fault := _unknown_choice(argument, groups, folders)) is not None:
            return fault
    known = groups | {"hydra"} | _keys(folders, "config.yaml")
    for argument in arguments:
        if (fault := _misspelt(argument, known, folders)) is not None:
            return fault
    return None


def arguments(typed: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The arguments for Hydra: those typed, with "++" before the keys of OPEN; "~seats.x" becomes "++seats.x=null".

    Raises:
        SelfplayError: an argument is wrong.
    """
    if error := mistake(typed, folders):
        raise SelfplayError(error)
    return [f"++{argument}" if _is_open(argument) else _default(argument) for argument in typed]


def as_typed(given: Sequence[str]) -> list[str]:
    """Undo `arguments`: the arguments as the user typed them."""
    plain = [argument[2:] if _is_open(argument[2:]) else argument for argument in given]
    return [re.sub(r"^(seats\.\w+)=null$", r"~\1", argument) for argument in plain]


def _default(argument: str) -> str:
    taken = DEFAULT.fullmatch(argument)
    return f"++{taken[1]}=null" if taken else argument


def _is_open(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and any(key == name or key.startswith(f"{name}.") for name in OPEN)


def run_command(work: Callable[[], None]) -> None:
    """Run a command; on a SelfplayError, print one line on stderr and exit with 1."""
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except SelfplayError as error:
        fail(error)


def fail(error: SelfplayError) -> NoReturn:
    """Print the error (only in the first process of a run) and exit with 1."""
    if not follows():
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def program() -> str:
    """The program as the user invoked it: `python run.py` or `selfplay`."""
    return "python run.py" if Path(sys.argv[0]).name == "run.py" else "selfplay"


def assignments(argument: str) -> Iterator[tuple[str, object]]:
    """The (key, value) pairs that an argument assigns; a value that cannot be parsed is yielded as text."""
    key, equals, text = argument.partition("=")
    key = key.lstrip("+~")
    if not equals:
        yield "the command line", key
        return
    yield key, text
    override = _parsed(argument)
    if override is not None and override.is_sweep_override():
        if type(override.value()).__name__ not in ("ChoiceSweep", "RangeSweep"):  # globs and intervals have no list
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
        return f"{group} is {value}, but only one choice is allowed; name one, or sweep over them with -m {group}=a,b"
    shown = "null" if value is None else value
    return f"{group} is {shown}, but it must be the name of a choice; see conf/{group}" + (
        f", or use {group}=none" if value is None else ""
    )


def _brings_configs(argument: str) -> bool:
    """Whether the argument adds a config folder."""
    return argument.startswith(("--config", "-cd", "-cp", "-cn")) or "hydra.searchpath" in argument


def _unknown_choice(argument: str, groups: set[str], folders: Sequence[Path]) -> str | None:
    """The error for a choice that the group lacks, with the closest matches and all known choices."""
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


def _misspelt(argument: str, known: set[str], folders: Sequence[Path]) -> str | None:
    """The error for an option that no yaml has at its top level, where a group or option has almost its name."""
    name = re.match(r"(\w+)[.=@]", argument)
    if name is None or name[1] in known or not (near := get_close_matches(name[1], known, n=1, cutoff=0.7)):
        return None
    if name[1] in _keys(folders, "*/*.yaml"):
        return None
    return f"there is no option '{name[1]}'; did you mean {near[0]}? A new one is added with +{argument}"


def _keys(folders: Sequence[Path], pattern: str) -> set[str]:
    """The keys at the top level of some yaml files."""
    texts = [path.read_text(encoding="utf-8") for conf in folders for path in conf.glob(pattern)]
    return {key for text in texts for key in re.findall(r"^(\w+):", text, re.MULTILINE)}


def _is_computed(name: str) -> bool:
    """Whether a choice is a Hydra or OmegaConf expression, or a list that is not split yet, rather than a name."""
    return any(sign in name for sign in "${}()[],:/")


def _parsed(argument: str):  # type: ignore[no-untyped-def]
    """The parsed override; None for a flag, or if Hydra cannot parse it (and will report that itself)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if argument.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
