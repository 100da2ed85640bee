"""Every option in a config against the type hints of what it is for, before anything is made or loaded.

One rule for all constructors, those of a user's own package, too: a bool is true or false and no text, an int is whole
and no bool, a float is any finite number, a list is no text, null is for what may be None, a part is a node with a
`_target_`. Ranges are those of `selfplay.options`.
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
IMPORTING = (ImportError, AttributeError, ValueError, TypeError, SyntaxError)  # of a wrong _target_


class Walk:
    """Goes through a config; `read` then holds the full keys of all that interpolations have led to."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def value(self, parent: DictConfig | ListConfig, name: Any, key: str) -> tuple[Any, str]:
        """An entry and its key: where an interpolation led, the key of what it led to."""
        return followed(parent, name, key, self.read)

    def check(self, value: Any, hint: Any, key: str) -> None:
        """Raise SelfplayError unless the value is what the hint says, in all of its parts."""
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
                if hasattr(condition, "fault") and (told := condition.fault(value)):
                    raise Fault(f"{plural(args[0])}{told}")
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
                raise Fault("made at once (_partial_: false)")
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
        told = []
        for hint in hints:
            try:
                return self._check(value, hint, key)
            except Fault as fault:
                told.append(str(fault))
        raise Fault(", or ".join(dict.fromkeys(told)))

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
                raise SelfplayError(f"{key}.{name} is given, but {_options(key, str(name), hints)}")
        for name, inner in hints.items():
            entry, where = self.value(value, name, f"{key}.{name}" if key else name)
            self.check(entry, inner, where)

    def _part(self, value: Any, hint: Any, key: str) -> None:
        """Whatever is made by a constructor, or of a type that says nothing."""
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
        """Look for parts within what may be anything."""
        if isinstance(value, DictConfig | ListConfig):
            names: list[Any] = list(value) if isinstance(value, DictConfig) else list(range(len(value)))
            for name in names:
                entry, where = self.value(value, name, f"{key}.{name}")
                self.check(entry, Any, where)
        elif isinstance(value, float) and math.isnan(value):
            raise Fault("a number")

    def call(self, node: DictConfig, key: str, given: Collection[str] = ()) -> Made:
        """Check the arguments of a node with a `_target_`; `given` are those that whoever makes it adds.

        Raises:
            SelfplayError: there is no such target, an option that it does not know or want in vain, or a wrong value.
        """
        target, partial = self._target(node, key)
        parameters = parameters_of(target)
        open_ended = any(p.kind is p.VAR_KEYWORD and not n.startswith("_") for n, p in parameters.items())
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        known = {n: p for n, p in named.items() if n not in given}
        hints = hints_of(target)
        options: list[str] = [str(name) for name in node if name not in SPECIAL]
        for name in options:
            if parameters and name not in known and (name in given or not open_ended):
                raise SelfplayError(
                    f"'{key}' cannot be made: {_options(node['_target_'], name, known)}; remove it with ~{key}.{name}, "
                    "or look at its yaml under conf/"
                )
            entry, where = self.value(node, name, f"{key}.{name}")
            self.check(entry, hints.get(name, Any), where)
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in options and not (partial and not given):
                raise SelfplayError(
                    f"'{key}' cannot be made: {node['_target_']} needs the option '{name}'; give it with "
                    f"+{key}.{name}=<value>, or look at its yaml under conf/"
                )
        return Made(target, partial, frozenset(options), key)

    def check_partial(self, value: Any, kind: type, given: Collection[str], key: str) -> None:
        """Raise SelfplayError unless it is a part of this kind that is made later, with `given` beside its options."""
        what = f"a part with a _target_ ({kind.__name__}), as in the yaml of its group under conf/"
        if not _is_part(value):
            raise SelfplayError(f"{key} is {shown(value)}, but it must be {what}; change it")
        made = self.call(value, key, given)
        found = made.target if isinstance(made.target, type) else hints_of(made.target).get("return")
        if ("_partial_" in value and not made.partial) or (isinstance(found, type) and not issubclass(found, kind)):
            raise SelfplayError(f"{key} is made by {value['_target_']}, but it must be {what}; change it")

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
                f"'{key}' cannot be made from its config: {reason}; look at its yaml under conf/"
            ) from error
        if not callable(target):
            raise SelfplayError(f"{where} is '{name}', which is no class or function; name one")
        return target, partial


def _is_part(value: Any) -> bool:
    return isinstance(value, DictConfig) and "_target_" in value


def _options(what: str, name: str, known: Iterable[str]) -> str:
    """That somebody has no such option, and which is meant."""
    names = [n for n in known if n not in ("self", "args", "kwargs")]
    near = get_close_matches(name, names, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{what} has no option '{name}' ({meant}it has: {', '.join(names) or 'none'})"
