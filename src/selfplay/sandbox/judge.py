"""The process that runs the tests. Proposed code never runs in it; tests call the code in another process.

Results arrive as plain data, are rebuilt here, and are compared here, with operators that the code cannot modify. Other
objects are represented by a `Remote`, see `selfplay.sandbox.remote`. This module runs inside the sandbox.
"""

import builtins
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

from selfplay.sandbox.names import split
from selfplay.sandbox.remote import Remote, RemoteFunction
from selfplay.sandbox.wire import decode, encode, receive, send

PLAIN: dict[str, type] = {k.__name__: k for k in (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}
BROKEN = (ValueError, TypeError, LookupError, RecursionError)  # raised by malformed answers


class Unsendable(BaseException):
    """A test passes an object to the code that cannot be sent. A BaseException, so that tests do not catch it."""


class Gone(BaseException):
    """The process that runs the code ended or violated the protocol."""


def run(job: dict[str, Any], report: Callable[[dict[str, object]], None]) -> None:
    """Run each test in its own namespace; report each that passes."""
    peer = Peer(*job["calls"])
    wanted, given = split([text for _, text in job["tests"]])
    for number, text in job["tests"]:
        try:
            found = peer.names(wanted)
            missing = {name: _missing(name) for name in wanted if name not in found and hasattr(builtins, name)}
            exec(compile(text, "<test>", "exec"), {"__name__": "test", **given, **missing, **found})
        except Unsendable as error:
            report({"unsendable": str(error), "test": number})
            return
        except Gone:
            break
        except BaseException:  # any other exception: the test fails
            continue
        if peer.gone:
            break
        report({"passed": number})
    report({"done": True})


def _missing(name: str) -> Callable[..., Any]:
    """Stands for a function with a built-in's name that the code failed to define."""

    def missing(*args: Any, **named: Any) -> Any:
        raise NameError(f"name '{name}' is not defined")

    return missing


class Peer:
    """The connection to the process that runs the proposed code, over two pipes."""

    def __init__(self, answers: int, calls: int) -> None:
        self.answers, self.calls = answers, calls
        self.callbacks: list[Callable[..., Any]] = []
        self.errors: dict[int, type[BaseException]] = {}
        self.gone = False

    def names(self, names: list[str]) -> dict[str, Any]:
        """The values of those names that the code defines."""
        found = self._exchange(["names", names], [])
        if type(found) is not dict or not set(found) <= set(names):
            raise self._lost()
        return found

    def do(self, operation: str, *args: Any, **named: Any) -> Any:
        """Perform an operation on the code's objects; return its result or raise its exception."""
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
            error = RuntimeError("the code raised StopIteration")  # which would end a loop of the test
        raise error

    def _lost(self) -> Gone:
        self.gone = True
        return Gone()

    def _called(self, number: int, args: list[Any], named: list[Any]) -> list[Any]:
        """Call a function of the test for the code."""
        function = self.callbacks[number]
        given = [decode(x, self._in) for x in args]
        words = {str(k): decode(v, self._in) for k, v in named}
        try:
            return ["return", encode(function(*given, **words), self._out)]
        except Exception as error:
            name = next(x.__name__ for x in type(error).__mro__ if x.__module__ == "builtins")
            return ["raise", name, ["list", [str(error)]]]

    def _out(self, value: Any) -> list[Any]:
        """Encode an object that is not plain data, to send it to the code."""
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
        """Decode an object that is not plain data, received from the code."""
        if data[0] == "builtin" and isinstance(kind := vars(builtins)[data[1]], type):
            return kind  # built-in functions stay proxies, so they are called in the code's process
        kind, number, base, calls, ancestors = data
        if kind != "object" or type(number) is not int:
            raise ValueError(kind)
        if ancestors:
            return self._error_class(number, ancestors)
        return (RemoteFunction if calls is True else Remote)(self, number, PLAIN[base] if base else None)

    def _error_class(self, number: int, ancestors: list[str]) -> type[BaseException]:
        """A local stand-in for an exception class of the code, so that a test can catch it."""
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
    """The first name that is a built-in exception."""
    for name in ancestors:
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            return kind
    raise ValueError("not an exception")


def _change(old: Any, new: Any) -> None:
    """Apply the code's changes to its copy of an argument to the argument itself."""
    if type(old) is not type(new):
        raise ValueError("the type has changed")
    if isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def prepare() -> None:
    """Redirect the standard streams to /dev/null, so that output of tests does not mix with reports."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
