"""The worker of `selfplay.sandbox.bounded`: `python -m selfplay.sandbox.worker MODULE SECONDS MEGABYTES`.

It reads requests from stdin (a length, then a pickle from its parent process), writes one JSON line for each, and exits
at the end of stdin.
"""

import ctypes
import importlib
import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
from typing import Any

PDEATHSIG = 1  # prctl
EXCEEDED = (signal.SIGPROF, signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)


def main() -> None:
    module, seconds, megabytes = importlib.import_module(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    source, sink = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)  # keep output of libraries out of the answers
    while len(head := source.read(8)) == 8:
        trusted, name, args = pickle.loads(source.read(struct.unpack("<Q", head)[0]))
        function = getattr(module, name)
        answer = _prepared(function, args) if trusted else _forked(function, args, seconds, megabytes)
        _write(sink, answer + b"\n")


def _prepared(function: Any, args: tuple[Any, ...]) -> bytes:
    function(*args)  # trusted code: an exception is a bug and ends the worker with a traceback
    return json.dumps(["value", None]).encode()


def _forked(function: Any, args: tuple[Any, ...], seconds: float, megabytes: int) -> bytes:
    """Call the function in a fork; return its answer, or why it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _limit(seconds, megabytes)
        _write(writing, _answer(function, args))
        os._exit(0)
    os.close(writing)
    answer = b""
    while True:
        ready, _, _ = select.select([0, reading], [], [])
        if 0 in ready:  # no requests arrive during a call, so stdin is closed: exit, which ends the fork too
            os._exit(1)
        data = os.read(reading, 1 << 16)
        if not data:
            break
        answer += data
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return answer
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in EXCEEDED:
        return json.dumps(["exceeded", signal.Signals(os.WTERMSIG(status)).name]).encode()
    return json.dumps(["error", f"its process ended with status {status}"]).encode()


def _answer(function: Any, args: tuple[Any, ...]) -> bytes:
    try:
        return json.dumps(["value", function(*args)]).encode()
    except (MemoryError, RecursionError) as error:
        return json.dumps(["exceeded", type(error).__name__]).encode()
    except BaseException as error:  # the caller raises it
        return json.dumps(["error", f"{type(error).__name__}: {error}"[:1000]]).encode()


def _limit(seconds: float, megabytes: int) -> None:
    """Let the kernel end this process at its limits, and with its parent."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, own + megabytes * (1 << 20)),
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, hard))
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _write(sink: int, data: bytes) -> None:
    while data:
        data = data[os.write(sink, data) :]


if __name__ == "__main__":
    main()
