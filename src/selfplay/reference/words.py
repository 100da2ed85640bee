"""Formats types, defaults and docstrings for the reference page."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from hydra.utils import get_object

from selfplay.options import LARGE, MOST, Expression, Holding, NotEmpty, OfTorch, OneOf, Range, Unlike


def hint_within(hint: Any, names: Sequence[str]) -> Any:
    """The type hint of a nested entry of a mapping type."""
    for name in names:
        for arm in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
            if is_typeddict(arm):
                hint = get_type_hints(arm, include_extras=True).get(name, Any)
                break
            if get_origin(arm) in (dict, Mapping) or getattr(get_origin(arm), "__name__", "") == "Mapping":
                hint = get_args(arm)[1]
                break
        else:
            return Any
    return hint


def hints_of(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(_function(target), include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _function(target: Any) -> Any:
    return inspect.getattr_static(target, "__init__") if isinstance(target, type) else target


def documented(target: Any) -> dict[str, str]:
    """name -> text, from the `Args` sections in the docstrings of a constructor and its base classes."""
    found: dict[str, str] = {}
    for made in reversed(target.__mro__) if isinstance(target, type) else [target]:
        for doc in (made.__doc__, getattr(_function(made), "__doc__", None)):
            _, _, section = inspect.cleandoc(doc or "").partition("\nArgs:\n")
            section = re.split(r"\n\S", section)[0]
            for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n     +.*)*)", section, re.MULTILINE):
                text = " ".join(text.split())
                for name in names.split(", "):
                    found[name] = re.sub(r"(?<!\.)\.$", "", _followed(text, name))
    return found


def _followed(text: str, name: str) -> str:
    """Resolve a text of the form "see `<class>`." to the description of the argument in that class."""
    if reference := re.fullmatch(r"see `([\w.]+\.[A-Z]\w+)`\.", text):
        return documented(get_object(reference[1])).get(name, text)
    return text


BASIC = {object: "", bool: "true or false", int: "int", float: "float", str: "text", type(None): "null"}


def type_name(hint: Any) -> str:
    """A type hint in words."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return ""
    if origin is Annotated:
        return _conditions(args[0], args[1:])
    if hint in BASIC:
        return BASIC[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, dict.fromkeys(map(type_name, args))))
    if origin is Literal:
        return "one of " + ", ".join(f"`{arg}`" for arg in args)
    if origin is Annotated or hint is None:
        return "null"
    name = getattr(origin or hint, "__name__", str(hint))
    if name in ("Sequence", "list", "tuple", "Iterable", "Collection", "set", "frozenset"):
        inner = [type_name(arg) for arg in args if arg is not ...]
        return f"list of {inner[0]}" if len(set(inner)) == 1 and inner[0] else "list"
    if name in ("Mapping", "dict"):
        inner = [type_name(arg) for arg in args]
        return f"mapping of {inner[0]} to {inner[1]}" if len(inner) == 2 and all(inner) else "mapping"
    return "function" if name == "Callable" else name


def _conditions(plain: Any, conditions: Sequence[Any]) -> str:
    words = type_name(plain)
    for condition in conditions:
        if isinstance(condition, Range):
            words += _range(condition)
        elif isinstance(condition, OneOf):
            words = "one of " + ", ".join(f"`{name}`" for name in condition.names)
        elif isinstance(condition, Expression):
            words = "regular expression"
        elif isinstance(condition, Holding):
            words += " with " + ", ".join(f"`{{{place}}}`" for place in condition.places)
        elif isinstance(condition, OfTorch):
            words = "device of PyTorch"
        elif isinstance(condition, NotEmpty) and plain is not str:
            words = f"{words}, not empty"
        elif isinstance(condition, Unlike):
            words += f", not {literal(condition.value)}"
    return words


def _range(limits: Range) -> str:
    low = limits.low if limits.low > -LARGE else None
    high = limits.high if limits.high < LARGE and limits.high != MOST else None
    parts = []
    if low is not None:
        parts.append(f"{'>' if limits.above else '≥'} {literal(low)}")
    if high is not None:
        parts.append(f"{'<' if limits.below else '≤'} {literal(high)}")
    return (" " + ", ".join(parts)) if parts else ""


def literal(value: Any) -> str:
    """Format a Python value as in yaml."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and abs(value) == float("inf"):
        return ".inf" if value > 0 else "-.inf"
    if isinstance(value, float) and value == int(value) and abs(value) >= 1e6:
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return str(getattr(value, "__name__", value))
    return str(value)


def yaml_value(text: str) -> str:
    """A value of a yaml file, shortened to 60 characters; multi-line values become their number of lines."""
    if "\n" in text.strip():
        return f"({len(text.strip().splitlines())} lines)"
    text = text.strip()
    return text if len(text) <= 60 else f"{text[:57]}..."


def short_target(target: str) -> str:
    """The last part of a dotted name."""
    return target.rpartition(".")[2]


def plain(text: str) -> str:
    """Escape text for use within backticks in a table."""
    return text.replace("`", "'").replace("|", "\\|")


def escaped(text: str) -> str:
    """Escape text with backticks for use in a table."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([<*])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")
