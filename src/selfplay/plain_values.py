"""Check values of plain types, and format values and types for messages."""

import math
from collections.abc import Callable
from typing import Any


class Fault(Exception):
    """Says what an option should have been."""


def shown(value: object) -> str:
    """Format a value for a message."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"'{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def type_name(hint: Any) -> str:
    """Format a type hint for a message."""
    return str(getattr(hint, "__name__", hint))


def plural(hint: Any) -> str:
    """The prefix of a message about a value that has this type but violates a condition."""
    return {int: "a whole number, ", float: "a number, "}.get(hint, "")


def _bool(value: Any) -> None:
    if type(value) is not bool:
        raise Fault("true or false")


def _int(value: Any) -> None:
    if type(value) is not int:
        raise Fault("a whole number")


def check_number(value: Any) -> None:
    """Raise Fault unless it is a number, finite or not."""
    if type(value) not in (int, float):
        raise Fault("a number")


def _finite(value: Any) -> None:
    check_number(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault("a finite number")


def _str(value: Any) -> None:
    if not isinstance(value, str):
        raise Fault("a text" + ("" if value is None else f" (in quotes on the command line: \"'{value}'\")"))


PLAIN: dict[Any, Callable[[Any], None]] = {bool: _bool, int: _int, float: _finite, str: _str}
