"""What a node with a `_target_` builds: its class, and whether that fits a type hint."""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from selfplay.plain_values import Fault, type_name


class Made:
    """What a node builds: its target with some options, called now or later (partial)."""

    def __init__(self, target: Any, partial: bool, options: frozenset[str], key: str) -> None:
        self.target, self.partial, self.options, self.key = target, partial, options, key

    @property
    def kind(self) -> type | None:
        """The class of the object; None if unknown."""
        if self.partial:
            return None
        found = self.target if isinstance(self.target, type) else hints_of(self.target).get("return")
        return found if isinstance(found, type) else None


def check_made(made: Made, hint: Any) -> None:
    """Raise Fault unless the object satisfies the hint."""
    wanted = get_origin(hint) or hint
    if wanted is Callable or getattr(wanted, "__name__", "") == "Callable":
        places = get_args(hint)[0] if get_args(hint) else ...
        _check_called(made, None if places is ... else list(places), "a function")
    elif getattr(wanted, "_is_protocol", False):
        call = vars(wanted).get("__call__")
        if call is not None:
            hints = hints_of(call)
            _, *parameters = inspect.signature(call).parameters.values()
            taken = [hints.get(p.name, Any) for p in parameters if p.kind is not p.VAR_KEYWORD]
            _check_called(made, taken, type_name(hint))
        elif made.partial or (made.kind and not all(hasattr(made.kind, n) for n in _methods(wanted))):
            raise Fault(f"a {type_name(hint)}, which has {' and '.join(_methods(wanted))}")
    elif isinstance(wanted, type) and (made.partial or (made.kind and not issubclass(made.kind, wanted))):
        raise Fault(f"a {type_name(hint)}" + (", built immediately (_partial_: false)" if made.partial else ""))


def _check_called(made: Made, taken: Sequence[Any] | None, what: str) -> None:
    """Raise Fault unless it can be called with positional arguments of the types `taken`, as far as the hints tell."""
    function, options = made.target, made.options
    if not made.partial:
        if made.kind is None or made.kind is types.FunctionType:
            return
        function = next((vars(c)["__call__"] for c in made.kind.__mro__ if "__call__" in vars(c)), None)
        if function is None:
            raise Fault(f"{what} (set _partial_: true, or use a class with a __call__ method)")
        taken, options = None if taken is None else [Any, *taken], frozenset()
    if taken is None:
        return
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a built-in
        return
    try:
        signature.bind(*[None] * len(taken), **dict.fromkeys(options))
    except TypeError as error:
        raise Fault(f"{what} with another signature ({error})") from None
    hints = hints_of(function)
    for name, kind in zip(signature.parameters, taken, strict=False):
        here, there = (get_origin(h) or h for h in (hints.get(name, Any), kind))
        if not _related(here, there):
            raise Fault(f"{what} whose argument '{name}' is a {type_name(kind)}, not a {type_name(here)}")


def _related(one: Any, other: Any) -> bool:
    """Whether an object may be of both types; True unless both are plain classes."""
    vague = (Any, types.UnionType, Union, Annotated)
    if any(kind in vague or not isinstance(kind, type) for kind in (one, other)):
        return True
    return issubclass(one, other) or issubclass(other, one)


def _methods(protocol: type) -> list[str]:
    return [name for name, member in vars(protocol).items() if inspect.isfunction(member) and not name.startswith("_")]


def parameters_of(target: Any) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of the target; None if it has no signature."""
    try:
        return inspect.signature(target).parameters
    except (ValueError, TypeError):  # a built-in
        return None


def hints_of(target: Any) -> dict[str, Any]:
    """The type hints of a function, or of a class's constructor, by parameter name."""
    try:
        function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a hint that only type checkers can resolve
        return {}
