"""Check every option in a config against the type hints of its constructor, before anything is built or loaded.

The same rules apply to all constructors, including those of users: a bool must be true or false, an int is not a bool,
a float is any finite number, a list is not a string, null is allowed only for Optional, and an object is a node with a
`_target_`. Ranges are defined in `selfplay.options`.
"""

import inspect
import math
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from selfplay.core import SelfplayError
from selfplay.interpolations import followed
from selfplay.options import Range
from selfplay.plain_values import PLAIN, Fault, check_number, plural, shown, type_name
from selfplay.targets import Made, check_made, hints_of, parameters_of

SPECIAL = ("_target_", "_partial_", "_convert_")
LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection, Iterator)
MAPPINGS = (dict, Mapping)
IMPORTING = (ImportError, AttributeError, ValueError, TypeError, SyntaxError)  # raised for a wrong _target_


class Walk:
    """Traverses a config; `read` collects the dotted keys that interpolations refer to."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def value(self, parent: DictConfig | ListConfig, name: Any, key: str) -> tuple[Any, str]:
        """An entry and its key, following an interpolation to its target; see `interpolations.followed`."""
        return followed(parent, name, key, self.read)

    def check(self, value: Any, hint: Any, key: str) -> None:
        """Raise SelfplayError unless the value matches the hint, recursively."""
        try:
            self._check(value, hint, key)
        except Fault as fault:
            raise SelfplayError(f"{key} is {shown(value)}, but it must be {fault}; change it") from None

    def _check(self, value: Any, hint: Any, key: str) -> None:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            if args[0] is float and any(isinstance(a, Range) for a in args):
                check_number(value)  # infinity may be within the range
            else:
                self._check(value, args[0], key)
            for condition in args[1:]:
                if hasattr(condition, "fault") and (fault := condition.fault(value)):
                    raise Fault(f"{plural(args[0])}{fault}")
        elif origin in (Union, types.UnionType):
            self._any_of(value, args, key)
        elif origin is Literal:
            if value not in args or isinstance(value, bool) != any(value is a for a in args if isinstance(a, bool)):
                raise Fault(f"one of {', '.join(map(str, args))}")
        elif hint in (None, type(None)):
            if value is not None:
                raise Fault("null")
        elif _is_part(value) and (hint in PLAIN or (origin or hint) in (*LISTS, *MAPPINGS)):
            if self.call(value, key).partial:
                raise Fault("built immediately (_partial_: false)")
        elif hint in PLAIN:
            PLAIN[hint](value)
        elif (origin or hint) in LISTS:
            self._list(value, args, key)
        elif (origin or hint) in MAPPINGS:
            self._mapping(value, args, key)
        elif is_typeddict(hint):
            self._fields(value, hint, key)
        else:
            self._part(value, hint, key)

    def _any_of(self, value: Any, hints: Sequence[Any], key: str) -> None:
        faults = []
        for hint in hints:
            try:
                return self._check(value, hint, key)
            except Fault as fault:
                faults.append(str(fault))
        raise Fault(", or ".join(dict.fromkeys(faults)))

    def _list(self, value: Any, args: Sequence[Any], key: str) -> None:
        if not isinstance(value, ListConfig):
            raise Fault("a list")
        if not args:
            args = (Any, ...)
        fixed = len(args) > 1 and args[-1] is not ...
        if fixed and len(value) != len(args):
            raise Fault(f"a list of {len(args)} entries")
        for i in range(len(value)):
            entry, where = self.value(value, i, f"{key}[{i}]")
            self.check(entry, args[i] if fixed else args[0], where)

    def _mapping(self, value: Any, args: Sequence[Any], key: str) -> None:
        if not isinstance(value, DictConfig):
            raise Fault("a mapping of names to values")
        names, values = args if args else (Any, Any)
        for name in value:
            self.check(name, names, f"a name in {key}")
            name = str(name)
            entry, where = self.value(value, name, f"{key}.{name}")
            self.check(entry, values, where)

    def _fields(self, value: Any, hint: Any, key: str) -> None:
        if not isinstance(value, DictConfig):
            raise Fault("a mapping of names to values")
        hints = get_type_hints(hint, include_extras=True)
        for name in map(str, value):
            if name not in hints:
                raise SelfplayError(f"{key}.{name} is set, but {_options(key, str(name), hints)}")
        for name, inner in hints.items():
            entry, where = self.value(value, name, f"{key}.{name}" if key else name)
            self.check(entry, inner, where)

    def _part(self, value: Any, hint: Any, key: str) -> None:
        """Check a value built by a constructor, or one whose type says nothing."""
        open_ended = hint in (Any, object, inspect.Parameter.empty) or not (
            isinstance(hint, type) or get_origin(hint) is not None
        )
        if _is_part(value):
            made = self.call(value, key)
            if not open_ended:
                check_made(made, hint)
        elif open_ended:
            self._anything(value, key)
        else:
            raise Fault(f"a part with a _target_ ({type_name(hint)}), as in the yaml of its group under conf/")

    def _anything(self, value: Any, key: str) -> None:
        """Check the parts within a value of any type."""
        if isinstance(value, DictConfig | ListConfig):
            names: list[Any] = list(value) if isinstance(value, DictConfig) else list(range(len(value)))
            for name in names:
                entry, where = self.value(value, name, f"{key}.{name}")
                self.check(entry, Any, where)
        elif isinstance(value, float) and math.isnan(value):
            raise Fault("a number")

    def call(self, node: DictConfig, key: str, given: Collection[str] = ()) -> Made:
        """Check the arguments of a node with a `_target_`; the caller will add the arguments `given`.

        Raises:
            SelfplayError: the target does not exist, an option is unknown or missing, or a value is invalid.
        """
        target, partial = self._target(node, key)
        found = parameters_of(target)
        parameters = found or {}
        open_ended = any(p.kind is p.VAR_KEYWORD and not n.startswith("_") for n, p in parameters.items())
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        known = {n: p for n, p in named.items() if n not in given}
        hints = hints_of(target)
        options: list[str] = [str(name) for name in node if name not in SPECIAL]
        for name in options:
            if found is not None and name not in known and (name in given or not open_ended):
                raise SelfplayError(
                    f"'{key}' cannot be built: {_options(node['_target_'], name, known)}; remove it with ~{key}.{name} "
                    "or check its yaml under conf/; if yours was merged into the group's default, make it a choice "
                    f"of its own (conf/{key.partition('.')[0]}/<name>.yaml)"
                )
            entry, where = self.value(node, name, f"{key}.{name}")
            self.check(entry, hints.get(name, Any), where)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in options and not (partial and not given):
                raise SelfplayError(
                    f"'{key}' cannot be built: {node['_target_']} needs the option '{name}'; set it with "
                    f"+{key}.{name}=<value>, or check its yaml under conf/"
                )
        return Made(target, partial, frozenset(options), key)

    def check_partial(self, value: Any, kind: type, given: Collection[str], key: str) -> None:
        """Raise SelfplayError unless it is a part of class `kind` to be built later with the arguments `given`."""
        what = f"a part with a _target_ ({kind.__name__}), as in the yaml of its group under conf/"
        if not _is_part(value):
            raise SelfplayError(f"{key} is {shown(value)}, but it must be {what}; change it")
        made = self.call(value, key, given)
        found = made.target if isinstance(made.target, type) else hints_of(made.target).get("return")
        if ("_partial_" in value and not made.partial) or (isinstance(found, type) and not issubclass(found, kind)):
            raise SelfplayError(f"{key} is built by {value['_target_']}, but it must be {what}; change it")

    def _target(self, node: DictConfig, key: str) -> tuple[Any, bool]:
        name, where = self.value(node, "_target_", f"{key}._target_")
        self.check(name, str, where)
        partial = False
        if "_partial_" in node:
            partial, where = self.value(node, "_partial_", f"{key}._partial_")
            self.check(partial, bool, where)
        try:
            target = get_object(name)
        except IMPORTING as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise SelfplayError(
                f"'{key}' cannot be built from its config: {reason}; check its yaml under conf/"
            ) from error
        if not callable(target):
            raise SelfplayError(f"{where} is '{name}', which is not a class or function; name one")
        return target, partial


def _is_part(value: Any) -> bool:
    return isinstance(value, DictConfig) and "_target_" in value


def _options(what: str, name: str, known: Iterable[str]) -> str:
    """Say that `what` has no such option, with the closest match and all known options."""
    names = [n for n in known if n not in ("self", "args", "kwargs")]
    near = get_close_matches(name, names, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{what} has no option '{name}' ({meant}it has: {', '.join(names) or 'none'})"
