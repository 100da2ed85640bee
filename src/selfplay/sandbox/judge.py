"""The process that runs the tests. Proposed code never ran in it: what it calls, it calls in another process.

Results come back as plain data, built anew here, and are compared here, with operators that the code has not touched.
What is no plain data stands here as a `Remote`, see `selfplay.sandbox.remote`. This module runs inside the sandbox.
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


def prepare() -> None:
    """Keep what a test prints away from what is told."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
