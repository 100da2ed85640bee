"""Runs model-written code in isolation, with resource limits, and judges it in a separate process.

It protects a training run from code that is harmful by accident or by reward hacking. It does not protect against
attacks on the kernel; use a virtual machine for that (docs/referees.md).
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

GRACE = 60.0  # seconds allowed for startup on a busy machine
REPORTED = 1 << 22  # maximum bytes that a process may report per test
FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*$")
CLOSED = re.compile(r"^[ \t]*```")

Test = str | tuple[str, str]  # an assertion, or (stdin, expected stdout)
Reports = list[dict[str, object]]


@dataclass(frozen=True)
class Outcome:
    """The test results of a piece of code.

    Attributes:
        passed: one flag per test.
        late: whether the time limit was exceeded.
    """

    passed: tuple[bool, ...]
    late: bool = False

    @property
    def share(self) -> float:
        """The fraction of tests that passed."""
        return sum(self.passed) / len(self.passed)


@dataclass(frozen=True)
class Sandbox:
    """A sandbox for code. Limits apply to each piece of code; several may run in parallel.

    Args:
        seconds: wall-clock time limit for all assertions together and for each example.
        megabytes: address space limit; the judging process may use as much again.
        file_megabytes: limit on all files together; without isolation, on each file.
        threads: maximum number of concurrent threads; code cannot start processes.
        isolation: "bubblewrap", or "namespaces" for Linux namespaces without it: no network, no other processes, and no
            files but its own folder and read-only libraries. "auto": the first of the two that works, else an error.
            "none": only limits on time, memory and file size, for code that you would run yourself.

    Raises:
        SelfplayError: a limit is out of range, the isolation is unknown or unavailable, or an old option is set.
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
                "sandbox.isolated is now sandbox.isolation; use auto instead of true, and none instead of false"
            )
        if self.processes is not None:
            raise SelfplayError("sandbox.processes is now sandbox.threads; code can no longer start processes")
        check_isolation(self.isolation)
        at_least(1, **{"sandbox.threads": self.threads, "sandbox.file_megabytes": self.file_megabytes})
        at_least(64, **{"sandbox.megabytes": self.megabytes})
        if not 0 < self.seconds < 86400:
            raise SelfplayError(f"sandbox.seconds is {self.seconds}; give a number above 0 and below 86400 (a day)")

    def run(self, code: str, tests: tuple[Test, ...]) -> Outcome:
        """Run the tests on the code; outcomes are cached.

        Args:
            code: Python source.
            tests: assertions, or pairs of stdin and expected stdout.

        Raises:
            SelfplayError: the sandbox could not run, or a test passes the code an object that cannot be sent to
                another process.
        """
        if sys.platform != "linux":
            raise SelfplayError(f"code can be run on Linux only, not on {sys.platform}; use another task")
        return _run(replace(self, isolation=chosen(self)) if self.isolation == "auto" else self, code, tests)


def code_in(reply: str) -> str:
    """The last fenced Python block of a reply, else its last fenced block without a language, else the whole reply."""
    found: dict[str, str] = {}
    lines, language = reply.split("\n"), None
    begun = 0
    for i, line in enumerate([*lines, "```"]):  # an unclosed fence ends with the text
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
    """The first isolation that works on this machine.

    Raises:
        SelfplayError: none works.
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


@lru_cache(maxsize=8192)  # reward and probes run the same tests
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
        ends = [*os.pipe(), *os.pipe()] if checks else []  # pipes for calls to the code and for its answers
        stack.callback(_close, ends)
        job = {**limits, "code": code, "stdins": [test[0] for _, test in examples]}
        parts = [launch({**job, "calls": [ends[0], ends[3]] if checks else []}, tuple(ends[0::3]), folder)]
        stack.callback(_end, parts)
        if checks:
            parts.append(launch({**limits, "tests": checks, "calls": [ends[2], ends[1]]}, tuple(ends[1:3]), folder))
        _close(ends)
        reports = _listen(parts, sandbox.seconds * (1 + len(examples)) + GRACE, REPORTED * (1 + len(examples)))
        for part, lines in zip(parts, reports, strict=True):
            if {"started": True} not in lines[:1]:
                _end(parts)
                raise SelfplayError(_refusal(sandbox, lines, part))
    return _outcome(tests, [i for i, _ in examples], reports)


def _outcome(tests: tuple[Test, ...], examples: list[int], reports: list[Reports]) -> Outcome:
    """Combine the judge's verdicts on assertions with the comparison of outputs on examples."""
    passed, late = [False] * len(tests), False
    ran, judged = reports[0], reports[1] if len(reports) > 1 else []
    for line in judged:
        if "unsendable" in line:
            test = tests[int(str(line["test"]))]
            raise SelfplayError(
                f"the test '{str(test)[:80]}' passes the code an object of the class {line['unsendable']}, which "
                "cannot be sent to another process; use plain data, functions, or classes of the code"
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


def _listen(parts: "list[Popen[bytes]]", seconds: float, most: int) -> list[Reports]:
    """Collect the reports of each process until all have ended or the time is over."""
    received = [b""] * len(parts)
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for number, part in enumerate(parts):
            assert part.stdout is not None
            selector.register(part.stdout, selectors.EVENT_READ, number)
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                data = os.read(key.fd, 1 << 16)
                received[key.data] += data
                if not data or len(received[key.data]) > most:
                    selector.unregister(key.fileobj)
    return [_lines(text) for text in received]


def _lines(received: bytes) -> Reports:
    """The complete, valid JSON lines of a process; those of the process that runs code are untrusted."""
    found = []
    for line in received.split(b"\n")[:-1]:
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict):
            found.append(read)
    return found


def _refusal(sandbox: Sandbox, lines: Reports, part: "Popen[bytes]") -> str:
    """The error message if the sandbox could not start."""
    if lines and "failed" in lines[0]:
        reason = str(lines[0]["failed"])
    else:
        assert part.stderr is not None
        reason = part.stderr.read().decode(errors="replace").strip().split("\n")[-1] or "no message"
    return (
        f"the sandbox cannot start with isolation={sandbox.isolation} ({reason}), so no code was run; enable user "
        "namespaces on this machine or container, or, for code that you would run yourself, use reward.isolation=none "
        "(task.sandbox.isolation=none with another reward)"
    )


def _end(parts: "list[Popen[bytes]]") -> None:
    """Kill the processes and wait for them."""
    for part in parts:
        with suppress(ProcessLookupError):
            os.killpg(part.pid, 9)
        part.kill()
        for stream in (part.stdin, part.stdout):
            if stream is not None:
                stream.close()
        part.wait()


def _close(ends: list[int]) -> None:
    """Close our ends of the pipes, so that each process sees when the other one is gone."""
    while ends:
        os.close(ends.pop())


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
