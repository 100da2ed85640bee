"""The process that runs proposed code. It receives the code and its inputs, but no expected outputs.

The first process of the sandbox enforces the time limit. For tests that call functions, a fork loads the code and
serves calls from the judge through a pipe; for each input-output example, a fork runs the code as a program. This
module runs inside the sandbox.
"""

import base64
import builtins
import operator
import os
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from selfplay.sandbox import confine, seccomp
from selfplay.sandbox.wire import decode, encode, receive, send

Job = dict[str, Any]
MOST = 1 << 20  # maximum bytes that code may write to stdout
CUT = b"\0output was cut"  # so that output that was cut equals no expected output
INPUT, OUTPUT = 3, 4  # file descriptors for calls and answers in the process that runs code


def run(job: Job, report: Callable[[dict[str, object]], None]) -> None:
    """Serve the judge, then run the code on each input; report its output, and whether it timed out."""
    if job["calls"]:
        pipes = tuple(job["calls"])
        late = _watch(job, *_start(job, None, pipes, lambda: Server(job["code"]).serve()), most=0)[1]
        report({"served": True, "late": late})
    for number, text in enumerate(job["stdins"]):
        source = _sealed(text.encode(errors="replace"))
        output, late = _watch(job, *_start(job, source, (), lambda: run_program(job["code"])), most=MOST)
        os.close(source)
        report({"example": number, "stdout": base64.b64encode(output).decode(), "late": late})


def _sealed(data: bytes) -> int:
    """A read-only memfd with the given content."""
    import fcntl

    source = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(source, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(source, 0, os.SEEK_SET)
    fcntl.fcntl(source, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    return source


def _start(job: Job, stdin: int | None, pipes: tuple[int, ...], work: Callable[[], None]) -> tuple[int, int]:
    """Fork a process that runs `work` under limits; return its id and a pipe (its stdout, unless `stdin` is None)."""
    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child:
        for pipe in (writing, *pipes):  # so that the judge sees when the code is gone
            os.close(pipe)
        return child, reading
    try:
        os.setsid()
        confine.control(confine.PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has exited already, so no signal would come
            os._exit(1)
        null = os.open("/dev/null", os.O_RDWR)
        wanted = [null if stdin is None else stdin, null if stdin is None else writing, null, *pipes]
        high = [_above(fd) for fd in wanted]
        for target, fd in enumerate(high):
            os.dup2(fd, target)
        os.closerange(len(wanted), 1 << 16)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        confine.limit(job)
        if job["isolation"] != "none":
            seccomp.allow_computing()
        for name in [name for name in sys.modules if name.split(".")[0] == "selfplay"]:
            del sys.modules[name]  # our modules must not shadow the code's imports
        work()
    finally:
        with suppress(OSError, ValueError, AttributeError):  # the code may have replaced it
            sys.stdout.flush()
        os._exit(0)


def _above(fd: int) -> int:
    """A duplicate of the descriptor, numbered above the targets of dup2."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, 64)


def _watch(job: Job, child: int, pipe: int, most: int) -> tuple[bytes, bool]:
    """Collect at most `most` bytes from the pipe until the process exits; return them, and whether it timed out.

    If our stdin hangs up, the process that started us is gone, so kill all processes and exit: the parent-death signal
    does not arrive if the parent, bubblewrap, may no longer signal us.
    """
    output, end, ended, open_ = b"", time.monotonic() + job["seconds"], os.pidfd_open(child), [pipe]
    late = False
    while len(output) <= most or not most:
        ready, _, _ = select.select([0, *open_, ended], [], [], max(0.0, end - time.monotonic()))
        if 0 in ready and not os.read(0, 1):
            _sweep(job, child)
            os._exit(1)
        if pipe in ready:
            data = os.read(pipe, 1 << 16)
            output += data if most else b""
            open_ = open_ if data else []
        elif ended in ready:
            break
        if time.monotonic() >= end:
            late = True
            break
    _sweep(job, child)
    os.close(ended)
    os.close(pipe)
    return output[:most] + (CUT if most and len(output) > most else b""), late


def _sweep(job: Job, child: int) -> None:
    """Kill the process and its descendants; without isolation, only those in its session."""
    with suppress(ProcessLookupError):
        if job["isolation"] != "none" and os.getpid() == 1:  # PID 1 of the namespace: -1 reaches only its processes
            os.kill(-1, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
            os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def run_program(code: str) -> None:
    """Run the code as a program."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__.update(exit=sys.exit, quit=sys.exit)  # normally defined by `site`, which is not loaded
    with suppress(SystemExit):
        exec(compile(code, "<answer>", "exec"), module.__dict__)


# --- answering calls --------------------------------------------------------------------------------------------------

BASES: dict[type, Callable[[Any], Any]] = {  # the value of an object of a derived class, without overridden methods
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: lambda x: bytes.__getitem__(x, slice(None)),
    list: lambda x: list.__getitem__(x, slice(None)),
    tuple: lambda x: tuple.__getitem__(x, slice(None)),
    dict: dict.copy,
    set: lambda x: {*set.__iter__(x)},
    frozenset: lambda x: frozenset({*frozenset.__iter__(x)}),
}
CHANGEABLE = (list, dict, set, bytearray)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda f, *args, **named: f(*args, **named),
    "getattr": getattr, "setattr": setattr, "delattr": delattr, "getitem": operator.getitem,
    "setitem": operator.setitem, "delitem": operator.delitem, "iter": iter, "next": next, "len": len, "bool": bool,
    "str": str, "repr": repr, "format": format, "int": int, "float": float, "isinstance": isinstance,
    "issubclass": issubclass, "plain": lambda x: next(get(x) for base, get in BASES.items() if isinstance(x, base)),
    "enter": lambda x: x.__enter__(), "exit": lambda x: bool(x.__exit__(None, None, None)),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "matmul",
                                                  "truediv", "neg", "and_", "or_", "xor")},
}  # fmt: skip


class Server:
    """Serves calls to the proposed code, loaded as a module."""

    def __init__(self, code: str) -> None:
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.module = types.ModuleType("answer")
        sys.modules["answer"] = self.module
        self.code = code

    def serve(self) -> None:
        """Load the code, then serve calls until the judge closes the pipe."""
        exec(compile(self.code, "<answer>", "exec"), self.module.__dict__)
        with suppress(EOFError, OSError):
            self._until_returned()

    def _until_returned(self) -> list[Any]:
        """Serve calls until the judge returns from a callback."""
        while True:
            message = receive(INPUT)
            if message[0] in ("return", "raise"):
                return list(message)
            try:
                answer = self._names(message[1]) if message[0] == "names" else self._do(*message)
            except BaseException as error:  # raised again in the judge
                answer = self._raised(error)
            try:
                send(OUTPUT, answer)
            except (ValueError, RecursionError) as error:
                send(OUTPUT, self._raised(ValueError(str(error))))

    def _names(self, names: list[str]) -> list[Any]:
        space = self.module.__dict__
        return ["value", ["dict", [[name, self._out(space[name])] for name in names if name in space]], []]

    def _do(self, name: str, encoded: list[Any], named: list[Any]) -> list[Any]:
        args = [decode(x, self._in) for x in encoded]
        value = OPERATIONS[name](*args, **{str(k): decode(v, self._in) for k, v in named})
        if name != "call":
            return ["value", self._out(value), []]
        changed = [
            [i, after]
            for i, (arg, before) in enumerate(zip(args, encoded, strict=True))
            if type(arg) in CHANGEABLE and (after := self._out(arg)) != before
        ]
        for i, arg in enumerate(args[1:], start=1):
            if value is arg and type(arg) in CHANGEABLE:
                return ["value", ["argument", i], changed]
        return ["value", self._out(value), changed]

    def _out(self, value: Any) -> Any:
        return encode(value, self._mention)

    def _mention(self, value: Any) -> list[Any]:
        """Encode an object that is not plain data by its number."""
        kind = type(value)
        name = str(getattr(value, "__name__", "")) if kind is type else ""
        if name and getattr(builtins, name, None) is value:
            return ["builtin", name]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        base = next((base.__name__ for base in BASES if issubclass(kind, base)), None)
        error = _ancestors(value) if isinstance(value, type) and issubclass(value, BaseException) else None
        return ["object", self.numbers[id(value)], base, callable(value), error]

    def _in(self, data: list[Any]) -> Any:
        kind, what = data[0], data[1]
        if kind == "object":
            return self.objects[what]
        if kind == "builtin":
            return getattr(builtins, what)
        if kind == "callback":
            return lambda *args, **named: self._ask(what, args, named)
        if kind == "iterator":
            return self._iterated(what)
        raise ValueError(kind)

    def _iterated(self, number: int) -> Iterator[Any]:
        while True:
            try:
                yield self._ask(number, (), {})
            except StopIteration:
                return

    def _ask(self, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the judge."""
        send(OUTPUT, ["callback", number, [self._out(x) for x in args], [[k, self._out(v)] for k, v in named.items()]])
        kind, *what = self._until_returned()
        if kind == "return":
            return decode(what[0], self._in)
        raise getattr(builtins, what[0], RuntimeError)(*decode(what[1], self._in))

    def _raised(self, error: BaseException) -> list[Any]:
        """Encode an exception: the names of its built-in base classes, its arguments, its class and itself."""
        own = None if type(error).__module__ == "builtins" else self._mention(type(error))
        try:
            args = encode(list(error.args), _none)
        except (TypeError, RecursionError):
            args = ["list", [str(error)]]
        return ["error", _ancestors(type(error)), args, own, self._mention(error)]


def _none(value: Any) -> Any:
    raise TypeError("not plain data")


def _ancestors(kind: type) -> list[str]:
    return [x.__name__ for x in kind.__mro__ if x.__module__ == "builtins" and issubclass(x, BaseException)]
