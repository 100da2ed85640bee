"""The other side of `selfplay.referees.sandbox`: a program that shuts itself in and then runs what a model wrote.

It is started as `python -I -S cell.py`, imports nothing of ours but its walls, reads one job (JSON) from stdin, writes
a JSON line when it is shut in and one with what passed. Three processes: this one; inside new namespaces the first
process, which watches the time and keeps the score; and one that runs the code.
"""

import json
import os
import select
import signal
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import walls  # type: ignore[import-not-found]

del sys.path[0]  # what is run shall not find our modules in the place of Python's
Job = dict[str, Any]
MOST = 1 << 20  # bytes that code may write


def start(job: Job, stdin: int | None, run: Callable[[int], None]) -> tuple[int, int]:
    """A process that runs `run(pipe)` under limits, and the end of the pipe into which it or its stdout writes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        os.setsid()
        walls.control(walls.PDEATHSIG, signal.SIGKILL)
        null = os.open("/dev/null", os.O_RDWR)
        told = os.dup(writing)
        for fd, source in ((0, null if stdin is None else stdin), (1, null if stdin is None else told), (2, null)):
            os.dup2(source, fd)
        os.closerange(3, told)
        os.closerange(told + 1, 4096)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        walls.limit(job)
        run(told)
    finally:
        with suppress(OSError, ValueError, AttributeError):  # whatever the code did to it
            sys.stdout.flush()
        os._exit(0)


def watch(job: Job, child: int, pipe: int) -> tuple[bytes, bool]:
    """What came through the pipe until the process ended, and whether it had to be ended: too late, or too much."""
    said, end, ended, reading = b"", time.monotonic() + job["seconds"], os.pidfd_open(child), [pipe]
    late = False
    while len(said) <= MOST:
        ready, _, _ = select.select([*reading, ended], [], [], max(0.0, end - time.monotonic()))
        if pipe in ready:
            data = os.read(pipe, 1 << 16)
            said += data
            reading = reading if data else []
        elif ended in ready:
            break
        if time.monotonic() >= end:
            late = True
            break
    sweep(job, child)
    os.close(ended)
    os.close(pipe)
    return said[:MOST], late


def sweep(job: Job, child: int) -> None:
    """End the process and all that it started; without a namespace, those that stayed in its session."""
    with suppress(ProcessLookupError):
        if job["isolated"] and os.getpid() == 1:  # of the namespace: -1 is nobody else's process
            os.kill(-1, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
            os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def examine(job: Job) -> dict[str, object]:
    """Which tests pass: those of its functions, in one process, then a process for each example of input and output."""
    checks = [(i, test) for i, test in enumerate(job["tests"]) if isinstance(test, str)]
    passed, late = [False] * len(job["tests"]), False
    if checks:
        said, late = watch(job, *start(job, None, lambda pipe: check(job, checks, pipe)))
        for line in said.decode("ascii", "replace").split("\n"):
            word, _, number = line.partition(" ")
            if word == job["nonce"] and number.isdecimal() and int(number) < len(passed):
                passed[int(number)] = True
    for i, test in enumerate(job["tests"]):
        if not isinstance(test, str):
            source = os.memfd_create("stdin")
            with open(source, "wb", closefd=False) as file:
                file.write(test["stdin"].encode(errors="replace"))
            os.lseek(source, 0, os.SEEK_SET)
            said, over = watch(job, *start(job, source, lambda pipe: speak(job, pipe)))
            os.close(source)
            passed[i] = not over and trimmed(said.decode(errors="replace")) == trimmed(test["stdout"])
            late = late or over
    return {"passed": passed, "late": late}


def check(job: Job, checks: list[tuple[int, str]], pipe: int) -> None:
    """Run the code, then each assertion; tell of each that holds with a word that the code was not told.

    What is needed then is named before: the code may put other functions in the place of Python's.
    """
    write, run, copy, every, code, word = (
        os.write,
        exec,
        dict,
        BaseException,
        job["code"],
        job["nonce"],
    )  # before it can
    ready = [(number, compile(test, "<test>", "exec")) for number, test in checks]
    job.clear()
    module = types.ModuleType("answer")
    run(compile(code, "<answer>", "exec"), module.__dict__)
    for number, test in ready:
        try:
            run(test, copy(module.__dict__))
        except every:  # whatever it is, the assertion does not hold
            continue
        write(pipe, f"{word} {number}\n".encode())


def speak(job: Job, pipe: int) -> None:
    """Run the code as a program."""
    os.close(pipe)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__.update(exit=sys.exit, quit=sys.exit)  # of `site`, which is left out
    code = job["code"]
    job.clear()
    with suppress(SystemExit):
        exec(compile(code, "<answer>", "exec"), module.__dict__)


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)

    def tell(what: dict[str, object]) -> None:
        os.write(out, json.dumps(what).encode() + b"\n")

    try:
        if job["isolated"]:
            walls.isolate(job)
            first = os.fork()
            if first:
                os.waitpid(first, 0)
                return
            walls.control(walls.PDEATHSIG, signal.SIGKILL)
            walls.control(walls.DUMPABLE, 0)  # the code may not look into it
    except OSError as error:
        tell({"failed": error.strerror or str(error)})
        return
    tell({"started": True})
    tell(examine(job))


if __name__ == "__main__":
    main()
