"""Running code that a model wrote: isolated, within limits, and judged by a process that it cannot reach.

It keeps a training run safe from what a model writes by accident or to win its reward. It is no defence against
whoever attacks the kernel: put a virtual machine around it for that (docs/referees.md).
"""

import base64
import json
import os
import re
import selectors
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from subprocess import Popen
from tempfile import TemporaryDirectory

from selfplay.core import SelfplayError, at_least
from selfplay.sandbox.launch import bubblewrap, check_isolation, launch

GRACE = 60.0  # seconds for starting, on a machine that is busy
TOLD = 1 << 22  # bytes that one process may tell of each test
FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*$")
CLOSED = re.compile(r"^[ \t]*```")

Test = str | tuple[str, str]  # an assertion, or what is read from stdin and what must be written to stdout
Told = list[dict[str, object]]


@dataclass(frozen=True)
class Outcome:
    """What code was worth.

    Attributes:
        passed: one flag a test.
        late: whether its time ran out.
    """

    passed: tuple[bool, ...]
    late: bool = False

    @property
    def share(self) -> float:
        """Of the tests that passed."""
        return sum(self.passed) / len(self.passed)


@dataclass(frozen=True)
class Sandbox:
    """Where code is run. All limits are for one piece of code; more than one may run side by side.

    Args:
        seconds: of the clock, for all assertions together and for each example.
        megabytes: of address space; the process that judges may use as much again.
        file_megabytes: of all files together; without isolation, of each file.
        threads: at once; one piece of code is one process, which cannot start another.
        isolation: "bubblewrap", or "namespaces" of Linux by hand: no network, no process but its own, no file but a
            folder of its own and the libraries for reading. "auto": the first of these that works; where none does,
            nothing is run. "none": limits on time, memory and file size alone, for code that you would run yourself.

    Raises:
        SelfplayError: a limit out of range, an isolation that there is not, or a setting of before.
    """

    seconds: float = 5.0
    megabytes: int = 512
    file_megabytes: int = 16
    threads: int = 8
    isolation: str = "auto"
    isolated: object = None
    processes: object = None

    def __post_init__(self) -> None:
        if self.isolated is not None:
            raise SelfplayError(
                "sandbox.isolated is now sandbox.isolation: auto in the place of true, none in the place of false"
            )
        if self.processes is not None:
            raise SelfplayError("sandbox.processes is now sandbox.threads: code can no longer start processes")
        check_isolation(self.isolation)
        at_least(1, **{"sandbox.threads": self.threads, "sandbox.file_megabytes": self.file_megabytes})
        at_least(64, **{"sandbox.megabytes": self.megabytes})
        if not 0 < self.seconds < 86400:
            raise SelfplayError(f"sandbox.seconds is {self.seconds}; give seconds, above 0 and below a day")

    def run(self, code: str, tests: tuple[Test, ...]) -> Outcome:
        """Which of the tests the code passes. What it does wrong, it does not pass; an outcome is remembered.

        Raises:
            SelfplayError: nothing could be run, so that nothing can be said of the code; or a test hands the code
                something that cannot be sent to another process.
        """
        if sys.platform != "linux":
            raise SelfplayError(f"code is run on Linux only, and this is {sys.platform}; use another task")
        return _run(replace(self, isolation=chosen(self)) if self.isolation == "auto" else self, code, tests)


def code_in(reply: str) -> str:
    """The last Python in a fence of a reply, else what is in its last fence without a language, else all of it."""
    found: dict[str, str] = {}
    lines, language = reply.split("\n"), None
    begun = 0
    for i, line in enumerate([*lines, "```"]):  # a fence that nobody closes ends with the text
        if language is None:
            fence = FENCE.match(line) if i < len(lines) - 1 else None
            if fence:
                language, begun = fence[1].lower(), i + 1
        elif CLOSED.match(line):
            rest = "\n".join(lines[begun:i])
            found["python" if language in ("python", "py", "python3") else language] = (
                rest + "\n" if begun < i < len(lines) else rest
            )
            language = None
    return found.get("python", found.get("", reply))


@lru_cache(maxsize=64)
def chosen(sandbox: Sandbox) -> str:
    """The first kind of isolation that works here.

    Raises:
        SelfplayError: none does.
    """
    reasons = []
    for isolation in ("bubblewrap", "namespaces"):
        if isolation == "bubblewrap" and bubblewrap() is None:
            continue
        try:
            _run(replace(sandbox, isolation=isolation), "", ("assert True",))
        except SelfplayError as error:
            reasons.append(error)
        else:
            return isolation
    raise reasons[-1]


@lru_cache(maxsize=8192)  # a reward and a probe ask for the same
def _run(sandbox: Sandbox, code: str, tests: tuple[Test, ...]) -> Outcome:
    checks = [(i, test) for i, test in enumerate(tests) if isinstance(test, str)]
    examples = [(i, test) for i, test in enumerate(tests) if not isinstance(test, str)]
    limits = {
        "seconds": sandbox.seconds,
        "megabytes": sandbox.megabytes,
        "file_megabytes": sandbox.file_megabytes,
        "threads": sandbox.threads,
        "isolation": sandbox.isolation,
    }
    with ExitStack() as stack:
        folder = None
        if sandbox.isolation == "none":
            folder = stack.enter_context(TemporaryDirectory(prefix="selfplay-", ignore_cleanup_errors=True))
        ends = [*os.pipe(), *os.pipe()] if checks else []  # calls to the code, its answers
        stack.callback(_close, ends)
        job = {**limits, "code": code, "stdins": [test[0] for _, test in examples]}
        parts = [launch({**job, "calls": [ends[0], ends[3]] if checks else []}, tuple(ends[0::3]), folder)]
        stack.callback(_end, parts)
        if checks:
            parts.append(launch({**limits, "tests": checks, "calls": [ends[2], ends[1]]}, tuple(ends[1:3]), folder))
        _close(ends)
        told = _listen(parts, sandbox.seconds * (1 + len(examples)) + GRACE, TOLD * (1 + len(examples)))
        for part, lines in zip(parts, told, strict=True):
            if {"started": True} not in lines[:1]:
                _end(parts)
                raise SelfplayError(_refusal(sandbox, lines, part))
    return _outcome(tests, [i for i, _ in examples], told)


def _outcome(tests: tuple[Test, ...], examples: list[int], told: list[Told]) -> Outcome:
    """What the judge says of the assertions, and whether what was written is what was to be written."""
    passed, late = [False] * len(tests), False
    ran, judged = told[0], told[1] if len(told) > 1 else []
    for line in judged:
        if "unsendable" in line:
            test = tests[int(str(line["test"]))]
            raise SelfplayError(
                f"the test '{str(test)[:80]}' hands the code an object of the class {line['unsendable']}, which cannot "
                "be sent to another process; write it with plain data, functions, or classes of the code's"
            )
        if "passed" in line:
            passed[int(str(line["passed"]))] = True
    written: dict[int, str] = {}
    for line in ran:
        late = late or bool(line.get("late"))
        if not line.get("late") and isinstance(number := line.get("example"), int) and 0 <= number < len(examples):
            written[number] = base64.b64decode(str(line["stdout"])).decode(errors="replace")
    for number, text in written.items():
        passed[examples[number]] = _trimmed(text) == _trimmed(tests[examples[number]][1])
    finished = len(written) == len(examples) and (not judged or {"done": True} in judged)
    return Outcome(tuple(passed), late or not finished)


def _listen(parts: "list[Popen[bytes]]", seconds: float, most: int) -> list[Told]:
    """What each process tells until all have ended, or their time is over."""
    said = [b""] * len(parts)
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for number, part in enumerate(parts):
            assert part.stdout is not None
            selector.register(part.stdout, selectors.EVENT_READ, number)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                data = os.read(key.fd, 1 << 16)
                said[key.data] += data
                if not data or len(said[key.data]) > most:
                    selector.unregister(key.fileobj)
    return [_lines(text) for text in said]


def _lines(said: bytes) -> Told:
    """The whole lines of what a process told; of the one that runs code, they may be anything."""
    found = []
    for line in said.split(b"\n")[:-1]:
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict):
            found.append(read)
    return found


def _refusal(sandbox: Sandbox, lines: Told, part: "Popen[bytes]") -> str:
    """Why nothing could be run, in a sentence."""
    if lines and "failed" in lines[0]:
        reason = str(lines[0]["failed"])
    else:
        assert part.stderr is not None
        reason = part.stderr.read().decode(errors="replace").strip().split("\n")[-1] or "it says nothing"
    return (
        f"the sandbox cannot start with isolation={sandbox.isolation} ({reason}), so no code was run; let this machine "
        "or container have user namespaces, or, for code that you would run yourself, use reward.isolation=none "
        "(task.sandbox.isolation=none with another reward)"
    )


def _end(parts: "list[Popen[bytes]]") -> None:
    """End the processes; whatever happens, they are gone afterwards."""
    for part in parts:
        with suppress(ProcessLookupError):
            os.killpg(part.pid, 9)
        part.kill()
        for stream in (part.stdin, part.stdout):
            if stream is not None:
                stream.close()
        part.wait()


def _close(ends: list[int]) -> None:
    """Close our ends of the pipes: a process shall see when the other one is gone."""
    while ends:
        os.close(ends.pop())


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
