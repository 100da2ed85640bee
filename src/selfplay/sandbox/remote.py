"""Proxies for objects of proposed code in the process that runs the tests. This module runs inside the sandbox.

A proxy can be used, but it can be equal only to another proxy.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Peer(Protocol):
    """Connection to the process that holds the objects; `selfplay.sandbox.judge` implements it."""

    def do(self, operation: str, *args: Any, **named: Any) -> Any:
        """Perform an operation on the code's objects; return its result or raise its exception."""


class Remote:
    """A proxy for an object of the code that is not plain data.

    Attributes, items, length and iteration are evaluated in the code's process, as are comparisons of two proxies.
    Comparisons with plain data are evaluated here, and only if the object's class derives from a plain type, by its
    value of that type: the object's own operators are never asked, because their answer would decide the verdict.
    """

    __slots__ = ("_base", "_number", "_peer")

    def __init__(self, peer: Peer, number: int, base: type | None) -> None:
        for name, value in (("_peer", peer), ("_number", number), ("_base", base)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        return _do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _do("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _do("delattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return _do("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _do("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        _do("delitem", self, key)

    def __len__(self) -> int:
        return int(_do("len", self))

    def __iter__(self) -> Any:
        found = _do("iter", self)
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self) -> Any:
        return _do("next", self)

    def __contains__(self, value: Any) -> bool:
        return any(value == item for item in self)

    def __bool__(self) -> bool:
        return bool(_do("bool", self))

    def __str__(self) -> str:
        return str(_do("str", self))

    def __repr__(self) -> str:
        return str(_do("repr", self))

    def __format__(self, how: str) -> str:
        return str(_do("format", self, how))

    def __int__(self) -> int:
        return int(_do("int", self))

    def __float__(self) -> float:
        return float(_do("float", self))

    def __index__(self) -> int:
        return _plain(self).__index__()  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return hash(_plain(self)) if _base(self) else hash(object.__getattribute__(self, "_number"))

    def __instancecheck__(self, value: Any) -> bool:
        return bool(_do("isinstance", value, self)) if type(value) in (Remote, RemoteFunction) else False

    def __subclasscheck__(self, value: Any) -> bool:
        return bool(_do("issubclass", value, self))

    def __enter__(self) -> Any:
        return _do("enter", self)

    def __exit__(self, *error: object) -> bool:
        return bool(_do("exit", self))

    @property
    def __class__(self) -> Any:
        return _base(self) or Remote

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError("the class of an object of the code cannot be set")


class RemoteFunction(Remote):
    """A callable proxy."""

    __slots__ = ()

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _do("call", self, *args, **named)


def _do(operation: str, *args: Any, **named: Any) -> Any:
    owner = next(x for x in args if type(x) in (Remote, RemoteFunction))
    return object.__getattribute__(owner, "_peer").do(operation, *args, **named)


def _base(remote: Remote) -> Any:
    return object.__getattribute__(remote, "_base")


def _plain(value: Any) -> Any:
    """The plain value of a proxy whose class derives from a plain type; other values unchanged."""
    if type(value) not in (Remote, RemoteFunction) or _base(value) is None:
        return value
    plain = _do("plain", value)
    if type(plain) is not _base(value):
        raise TypeError("the object does not have its declared type")
    return plain


def _operator(name: str, there: str | None) -> Callable[..., Any]:
    """An operator: evaluated here on plain data, and by the peer (as `there`) on the code's own objects."""

    def operate(self: Any, *others: Any) -> Any:
        one, *rest = map(_plain, (self, *others))
        if type(one) not in (Remote, RemoteFunction):
            method = getattr(type(one), name, None)
            return NotImplemented if method is None else method(one, *rest)
        if there is not None and all(type(x) in (Remote, RemoteFunction) for x in rest):
            return _do(there, one, *rest)
        return NotImplemented

    return operate


for _name in (
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "and_",
    "or_",
    "xor",
    "neg",
):
    _method = f"__{_name.rstrip('_')}__"
    setattr(Remote, _method, _operator(_method, _name))
for _name in ("radd", "rsub", "rmul", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod", "pow", "rpow", "rand", "ror",
              "rxor", "pos", "abs", "round", "invert", "lshift", "rshift"):  # fmt: skip
    setattr(Remote, f"__{_name}__", _operator(f"__{_name}__", None))
