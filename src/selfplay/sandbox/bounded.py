"""Calls with untrusted arguments, each in a separate process whose CPU time and memory the kernel limits.

Some scorers evaluate their input. Its cost cannot be predicted, and a Python signal handler cannot interrupt a single
operation on large numbers, so the kernel enforces the limits. CPU time is used instead of wall-clock time so that
verdicts do not depend on the load of the machine.
"""

import atexit
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Hashable
from threading import Lock
from typing import Any

from selfplay.core import SelfplayError


class Exceeded(Exception):
    """The call exceeded its CPU time or memory limit, or crashed its process."""


class Bounded:
    """A worker process that calls functions of one module; it starts at the first call.

    The worker imports the module and runs `prepare` calls itself; every other call runs in a fork, so that calls cannot
    affect each other. Calls from several threads are serialised.

    Args:
        module: the module with the functions, which should import quickly.
        seconds: CPU time limit of a call.
        megabytes: memory limit of a call, in addition to the worker's own memory.
    """

    def __init__(self, module: str, seconds: float = 2.0, megabytes: int = 1024) -> None:
        self.module, self.seconds, self.megabytes = module, seconds, megabytes
        self._lock = Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._prepared: set[Hashable] = set()

    def prepare(self, function: str, *args: Hashable) -> None:
        """Call a trusted function in the worker itself, without limits, once per set of arguments.

        Raises:
            SelfplayError: the function raised, or the worker ended.
        """
        with self._lock:
            if (function, args) not in self._prepared or self._worker is None:
                self._ask(True, function, args)
                self._prepared.add((function, args))

    def call(self, function: str, *args: Any) -> Any:
        """Call a function under limits; it must return JSON types. The arguments must be picklable.

        Raises:
            Exceeded: the call exceeded its limits.
            SelfplayError: the function raised, or the worker ended.
        """
        with self._lock:
            return self._ask(False, function, args)

    def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None
        self._prepared.clear()
        if worker is not None:
            worker.kill()
            worker.communicate()

    def _ask(self, trusted: bool, function: str, args: tuple[Any, ...]) -> Any:
        worker = self._worker = self._worker or self._started()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            request = pickle.dumps((trusted, function, args))
            worker.stdin.write(struct.pack("<Q", len(request)) + request)
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BaseException as error:  # an incomplete exchange: later answers would not match their requests
            self.close()
            if isinstance(error, BrokenPipeError):
                line = b""
            else:
                raise
        if not line.endswith(b"\n"):
            self.close()
            raise SelfplayError(f"the process that runs {self.module} ended; see its message above")
        kind, value = json.loads(line)
        if kind == "exceeded":
            raise Exceeded(value)
        if kind == "error":
            raise SelfplayError(f"{self.module}.{function} failed: {value}")
        return value

    def _started(self) -> "subprocess.Popen[bytes]":
        self._prepared.clear()
        atexit.register(self.close)
        command = [sys.executable, "-m", "selfplay.sandbox.worker", self.module, str(self.seconds), str(self.megabytes)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
