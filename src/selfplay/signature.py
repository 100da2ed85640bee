"""Every option in a config against the type hints of what it is for, before anything is made or loaded.

One rule for all constructors, those of a user's own package, too: a bool is true or false and no text, an int is whole
and no bool, a float is any finite number, a list is no text, null is for what may be None, a part is a node with a
`_target_`. Ranges are those of `selfplay.options`.
"""

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from selfplay.core import SelfplayError
from selfplay.interpolations import followed
from selfplay.options import Range

SPECIAL = ("_target_", "_partial_", "_convert_")
LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection, Iterator)
MAPPINGS = (dict, Mapping)
IMPORTING = (ImportError, AttributeError, ValueError, TypeError, SyntaxError)  # of a wrong _target_


class Fault(Exception):
    """What an option should have been, where it is not."""


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
                _float(value)  # infinity may be within the range
            else:
                self._check(value, args[0], key)
            for condition in args[1:]:
                if hasattr(condition, "fault") and (told := condition.fault(value)):
                    raise Fault(f"{_plural(args[0])}{told}")
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
                _check_made(made, hint)
        elif open_ended:
            self._anything(value, key)
        else:
            raise Fault(f"a part with a _target_ ({_named(hint)}), as in the yaml of its group under conf/")

    def _anything(self, value: Any, key: str) -> None:
        """Look for parts within what may be anything."""
        if isinstance(value, DictConfig | ListConfig):
            names: list[Any] = list(value) if isinstance(value, DictConfig) else list(range(len(value)))
            for name in names:
                entry, where = self.value(value, name, f"{key}.{name}")
                self.check(entry, Any, where)
        elif isinstance(value, float) and math.isnan(value):
            raise Fault("a number")

    def call(self, node: DictConfig, key: str, given: Collection[str] = ()) -> "Made":
        """Check the arguments of a node with a `_target_`; `given` are those that whoever makes it adds.

        Raises:
            SelfplayError: there is no such target, an option that it does not know or want in vain, or a wrong value.
        """
        target, partial = self._target(node, key)
        parameters = _parameters(target)
        open_ended = any(p.kind is p.VAR_KEYWORD and not n.startswith("_") for n, p in parameters.items())
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        known = {n: p for n, p in named.items() if n not in given}
        hints = _hints(target)
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
        found = made.target if isinstance(made.target, type) else _hints(made.target).get("return")
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


class Made:
    """What a node makes: its target with some options, called now (a part) or later (partial)."""

    def __init__(self, target: Any, partial: bool, options: frozenset[str], key: str) -> None:
        self.target, self.partial, self.options, self.key = target, partial, options, key

    @property
    def kind(self) -> type | None:
        """The class of the part; None where nobody says."""
        if self.partial:
            return None
        found = self.target if isinstance(self.target, type) else _hints(self.target).get("return")
        return found if isinstance(found, type) else None


def _check_made(made: Made, hint: Any) -> None:
    """Raise Fault unless what is made can stand where the hint is."""
    wanted = get_origin(hint) or hint
    if wanted is Callable or getattr(wanted, "__name__", "") == "Callable":
        places = get_args(hint)[0] if get_args(hint) else ...
        _check_called(made, None if places is ... else list(places), "a function")
    elif getattr(wanted, "_is_protocol", False):
        call = vars(wanted).get("__call__")
        if call is not None:
            hints = _hints(call)
            taken = [hints.get(n, Any) for n in list(inspect.signature(call).parameters)[1:]]
            _check_called(made, taken, _named(hint))
        elif made.partial or (made.kind and not all(hasattr(made.kind, n) for n in _methods(wanted))):
            raise Fault(f"a {_named(hint)}, which has {' and '.join(_methods(wanted))}")
    elif isinstance(wanted, type) and (made.partial or (made.kind and not issubclass(made.kind, wanted))):
        raise Fault(f"a {_named(hint)}" + (", made at once (_partial_: false)" if made.partial else ""))


def _check_called(made: Made, taken: Sequence[Any] | None, what: str) -> None:
    """Raise Fault unless it can be called with arguments of the types `taken`, or of types that may be the same."""
    function, options = made.target, made.options
    if not made.partial:
        if made.kind is None or made.kind is types.FunctionType:
            return
        function = next((vars(c)["__call__"] for c in made.kind.__mro__ if "__call__" in vars(c)), None)
        if function is None:
            raise Fault(f"{what}: with _partial_: true, or a class whose objects can be called")
        taken, options = None if taken is None else [Any, *taken], frozenset()
    if taken is None:
        return
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # of a built-in
        return
    try:
        signature.bind(*[None] * len(taken), **dict.fromkeys(options))
    except TypeError as error:
        raise Fault(f"{what}, which another one is ({error})") from None
    hints = _hints(function)
    for name, kind in zip(signature.parameters, taken, strict=False):
        here, there = (get_origin(h) or h for h in (hints.get(name, Any), kind))
        if not _related(here, there):
            raise Fault(f"{what}, whose argument '{name}' is of {_named(kind)} and not of {_named(here)}")


def _related(one: Any, other: Any) -> bool:
    """Whether something may be of both types, as far as two plain classes can say."""
    vague = (Any, types.UnionType, Union, Annotated)
    if any(kind in vague or not isinstance(kind, type) for kind in (one, other)):
        return True
    return issubclass(one, other) or issubclass(other, one)


def _methods(protocol: type) -> list[str]:
    return [name for name, member in vars(protocol).items() if inspect.isfunction(member) and not name.startswith("_")]


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (ValueError, TypeError):  # of a built-in
        return {}


def _hints(target: Any) -> dict[str, Any]:
    try:
        function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a hint that is there for type checkers alone
        return {}


def _options(what: str, name: str, known: Iterable[str]) -> str:
    """That somebody has no such option, and which is meant."""
    names = [n for n in known if n not in ("self", "args", "kwargs")]
    near = get_close_matches(name, names, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{what} has no option '{name}' ({meant}it has: {', '.join(names) or 'none'})"


def shown(value: object) -> str:
    """A value as part of a sentence."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"'{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _named(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint))


def _plural(hint: Any) -> str:
    return {int: "a whole number, ", float: "a number, "}.get(hint, "")


def _bool(value: Any) -> None:
    if type(value) is not bool:
        raise Fault("true or false")


def _int(value: Any) -> None:
    if type(value) is not int:
        raise Fault("a whole number")


def _float(value: Any) -> None:
    if type(value) not in (int, float):
        raise Fault("a number")


def _finite(value: Any) -> None:
    _float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault("a finite number")


def _str(value: Any) -> None:
    if not isinstance(value, str):
        raise Fault("a text" + ("" if value is None else f" (in quotes on the command line: \"'{value}'\")"))


PLAIN: dict[Any, Callable[[Any], None]] = {bool: _bool, int: _int, float: _finite, str: _str}
