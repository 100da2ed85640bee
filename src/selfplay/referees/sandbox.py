"""Running code that a model wrote: in processes of its own, with little time and memory, and nobody to talk to.

It keeps a training run safe from what a model writes by accident or to win its reward. It is no wall against somebody
who attacks the kernel: put a container or a virtual machine around it for that (docs/referees.md).
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from selfplay.core import SelfplayError, at_least

CELL = Path(__file__).with_name("cell.py")
GRACE = 60.0  # seconds for starting, on a machine that is busy
FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)

Test = str | tuple[str, str]  # an assertion, or what is read from stdin and what must be written to stdout


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
    """Where code is run. All limits are for each process that runs code; more than one may run side by side.

    Args:
        seconds: of the clock, for all assertions together and for each example.
        megabytes: of address space.
        file_megabytes: of a file; where isolated, of all files together.
        processes: at once, threads counted, itself included; counted only where isolated.
        isolated: no network, no process but its own, no file but a folder of its own and the libraries for reading, by
            the namespaces of Linux; where the kernel does not allow them, nothing is run. False: the limits on time,
            memory and file size alone, for code that you would run yourself.

    Raises:
        SelfplayError: a limit out of range.
    """

    seconds: float
    megabytes: int
    file_megabytes: int
    processes: int
    isolated: bool

    def __post_init__(self) -> None:
        at_least(1, **{"sandbox.processes": self.processes, "sandbox.file_megabytes": self.file_megabytes})
        at_least(64, **{"sandbox.megabytes": self.megabytes})
        if not 0 < self.seconds < 86400:
            raise SelfplayError(f"sandbox.seconds is {self.seconds}; give seconds, above 0 and below a day")

    def run(self, code: str, tests: tuple[Test, ...]) -> Outcome:
        """Which of the tests the code passes. What it does wrong, it does not pass; an outcome is remembered.

        Raises:
            SelfplayError: nothing could be run, so that nothing can be said of the code.
        """
        return _run(self, code, tests)


def code_in(reply: str) -> str:
    """The last Python in a fence of a reply, else what is in its last fence without a language, else all of it."""
    fences = FENCE.findall(reply)
    for languages in (("python", "py", "python3"), ("",)):
        found = [code for language, code in fences if language.lower() in languages]
        if found:
            return str(found[-1])
    return reply


@lru_cache(maxsize=8192)  # a reward and a probe ask for the same
def _run(sandbox: Sandbox, code: str, tests: tuple[Test, ...]) -> Outcome:
    if sys.platform != "linux":
        raise SelfplayError(f"code is run on Linux only, and this is {sys.platform}; use another task")
    with TemporaryDirectory(prefix="selfplay-", ignore_cleanup_errors=True) as folder:
        job = {
            "code": code,
            "tests": [test if isinstance(test, str) else {"stdin": test[0], "stdout": test[1]} for test in tests],
            "nonce": secrets.token_hex(16),
            "folder": os.path.realpath(folder),
            "library": libraries(),
            "seconds": sandbox.seconds,
            "megabytes": sandbox.megabytes,
            "file_megabytes": sandbox.file_megabytes,
            "processes": sandbox.processes,
            "isolated": sandbox.isolated,
        }
        examples = sum(not isinstance(test, str) for test in tests)
        out, err = _spoken(job, folder, sandbox.seconds * (1 + examples) + GRACE)
    told = [json.loads(line) for line in out.splitlines() if line.endswith(b"}")]
    if {"started": True} not in told:
        reason = (
            told[0]["failed"] if told else (err.decode(errors="replace").strip().split("\n")[-1] or "it says nothing")
        )
        raise SelfplayError(
            f"the sandbox cannot start ({reason}), so no code was run; let this machine or container have user "
            "namespaces, or, for code that you would run yourself, use task.sandbox.isolated=false"
        )
    if len(told) < 2:
        return Outcome((False,) * len(tests), late=True)  # it took its watchman with it
    return Outcome(tuple(told[1]["passed"]), told[1]["late"])


def _spoken(job: Mapping[str, object], folder: str, seconds: float) -> tuple[bytes, bytes]:
    """stdout and stderr of the cell; whatever happens, it is gone afterwards."""
    environment = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/work"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(CELL)]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, env=environment, start_new_session=True
    ) as process:
        try:
            return process.communicate(json.dumps(job).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()
        except BaseException:  # an interrupted run leaves nothing behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


@lru_cache(maxsize=1)
def libraries() -> list[str]:
    """The folders that a Python needs to import its own modules, those of C included; links stay links."""
    standard = [str(Path(sys.base_prefix, part).resolve()) for part in ("lib", "lib64")]
    found = [p for p in ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", *standard) if os.path.isdir(p)]
    return list(dict.fromkeys(found))
