"""The process that runs the tests. Proposed code never ran in it: what it calls, it calls in another process.

Results come back as plain data, built anew here, and are compared here, with operators that the code has not touched.
What is no plain data stands here as a `Remote`: it can be used, but it can equal nothing except another one. This
module runs inside the sandbox.
"""

import builtins
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

from selfplay.sandbox.names import split
from selfplay.sandbox.wire import decode, encode, receive, send

BROKEN = (ValueError, TypeError, LookupError, RecursionError)  # of an answer that is no message


class Unsendable(BaseException):
    """A test hands the code something that cannot cross; not the code's fault, so nobody shall catch it."""


class Gone(BaseException):
    """The process that runs the code ended, or does not keep to the rules."""


def run(job: dict[str, Any], tell: Callable[[dict[str, object]], None]) -> None:
    """Run each test in a name space of its own; tell of each that passes."""
    peer = Peer(*job["calls"])
    wanted, given = split([text for _, text in job["tests"]])
    for number, text in job["tests"]:
        try:
            found = peer.names(wanted)
            missing = {name: _missing(name) for name in wanted if name not in found and hasattr(builtins, name)}
            exec(compile(text, "<test>", "exec"), {"__name__": "test", **given, **missing, **found})
        except Unsendable as error:
            tell({"unsendable": str(error), "test": number})
            return
        except Gone:
            break
        except BaseException:  # whatever it is, the test does not hold
            continue
        if peer.gone:
            break
        tell({"passed": number})
    tell({"done": True})


def _missing(name: str) -> Callable[..., Any]:
    """In the place of a function that the code was to define, under a name of Python's."""

    def missing(*args: Any, **named: Any) -> Any:
        raise NameError(f"name '{name}' is not defined")

    return missing


class Peer:
    """The proposed code, at the other end of two pipes."""

    def __init__(self, answers: int, calls: int) -> None:
        self.answers, self.calls = answers, calls
        self.callbacks: list[Callable[..., Any]] = []
        self.errors: dict[int, type[BaseException]] = {}
        self.gone = False

    def names(self, names: list[str]) -> dict[str, Any]:
        """The names of these that the code has, with their values."""
        found = self._exchange(["names", names], [])
        if type(found) is not dict or not set(found) <= set(names):
            raise self._lost()
        return found

    def do(self, operation: str, *args: Any, **named: Any) -> Any:
        """What an operation on the code's objects gives, or raises, there."""
        encoded = [encode(x, self._out) for x in args]
        words = [[k, encode(v, self._out)] for k, v in named.items()]
        return self._exchange([operation, encoded, words], list(args))

    def _exchange(self, message: list[Any], args: list[Any]) -> Any:
        if self.gone:
            raise self._lost()
        try:
            send(self.calls, message)
            while True:
                kind, *rest = receive(self.answers)
                if kind != "callback":
                    break
                send(self.calls, self._called(*rest))
            if kind == "value":
                for place, after in rest[1]:
                    _change(args[place], decode(after, self._in))
                if type(rest[0]) is list and rest[0][:1] == ["argument"]:
                    return args[rest[0][1]]
                return decode(rest[0], self._in)
            error = self._error(*rest)
        except (EOFError, OSError, *BROKEN):
            raise self._lost() from None
        if isinstance(error, StopIteration) and message[0] != "next":
            error = RuntimeError("the code raised StopIteration")  # it would end the loop of a test
        raise error

    def _lost(self) -> Gone:
        self.gone = True
        return Gone()

    def _called(self, number: int, args: list[Any], named: list[Any]) -> list[Any]:
        """Run a function of the test's for the code."""
        function = self.callbacks[number]
        given = [decode(x, self._in) for x in args]
        words = {str(k): decode(v, self._in) for k, v in named}
        try:
            return ["return", encode(function(*given, **words), self._out)]
        except Exception as error:
            name = next(x.__name__ for x in type(error).__mro__ if x.__module__ == "builtins")
            return ["raise", name, ["list", [str(error)]]]

    def _out(self, value: Any) -> list[Any]:
        """What is no plain data, on its way to the code."""
        if isinstance(value, Remote):
            return ["object", object.__getattribute__(value, "_number")]
        name = str(getattr(value, "__name__", ""))
        if type(value) in (type, types.BuiltinFunctionType) and value is getattr(builtins, name, None):
            return ["builtin", name]
        if isinstance(value, Iterator):
            return ["iterator", self._numbered(value.__next__)]
        if callable(value):
            return ["callback", self._numbered(value)]
        raise Unsendable(type(value).__name__)

    def _numbered(self, function: Callable[..., Any]) -> int:
        self.callbacks.append(function)
        return len(self.callbacks) - 1

    def _in(self, data: list[Any]) -> Any:
        """What is no plain data, on its way from the code."""
        if data[0] == "builtin" and isinstance(kind := vars(builtins)[data[1]], type):
            return kind  # a function of Python's would be called here: it stays an object of the code's
        kind, number, base, calls, ancestors = data
        if kind != "object" or type(number) is not int:
            raise ValueError(kind)
        if ancestors:
            return self._error_class(number, ancestors)
        return (RemoteFunction if calls is True else Remote)(self, number, PLAIN[base] if base else None)

    def _error_class(self, number: int, ancestors: list[str]) -> type[BaseException]:
        """A class of exceptions that the code defines, as a class of ours, so that a test can catch it."""
        if number not in self.errors:
            made = type("Error", (_builtin(ancestors),), {"__new__": _made_there(self, number)})
            self.errors[number] = made
        return self.errors[number]

    def _error(self, ancestors: list[str], args: Any, own: list[Any] | None, itself: list[Any]) -> BaseException:
        kind = _builtin(ancestors) if own is None else self._in(own)
        try:
            error: BaseException = kind.__new__(kind, *decode(args, self._in))
            error.args = tuple(decode(args, self._in))
        except TypeError:
            error = RuntimeError("an exception of the code")
        return error


def _made_there(peer: Peer, number: int) -> Callable[..., Any]:
    def new(kind: Any, *args: Any) -> Any:
        return BaseException.__new__(kind, *args)

    return new


def _builtin(ancestors: list[str]) -> type[BaseException]:
    """The first of some names that is an exception of Python's."""
    for name in ancestors:
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return kind
    raise ValueError("no exception")


def _change(old: Any, new: Any) -> None:
    """Do to an argument what the code did to its copy."""
    if type(old) is not type(new):
        raise ValueError("another type")
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


PLAIN: dict[str, type] = {k.__name__: k for k in (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}


class Remote:
    """An object of the code's that is no plain data.

    It is used there: attributes, items, its length, iteration. It is compared here: with plain data only where its
    class is derived from such a type, as what it is then; and with another object of the code's there. No operator asks
    it about plain data, for its answer would be the verdict.
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
        raise TypeError("the class of an object of the code's cannot be set")


class RemoteFunction(Remote):
    """One that can be called."""

    __slots__ = ()

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _do("call", self, *args, **named)


def _do(operation: str, *args: Any, **named: Any) -> Any:
    owner = next(x for x in args if type(x) in (Remote, RemoteFunction))
    return object.__getattribute__(owner, "_peer").do(operation, *args, **named)


def _base(remote: Remote) -> Any:
    return object.__getattribute__(remote, "_base")


def _plain(value: Any) -> Any:
    """The plain data that an object of a class derived from such a type is; other values as they are."""
    if type(value) not in (Remote, RemoteFunction) or _base(value) is None:
        return value
    plain = _do("plain", value)
    if type(plain) is not _base(value):
        raise TypeError("it is not what it is said to be")
    return plain


def _operator(name: str, there: str | None) -> Callable[..., Any]:
    """An operator: here on plain data, there among the code's own objects."""

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


def prepare() -> None:
    """Keep what a test prints away from what is told."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
