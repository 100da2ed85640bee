"""Calls whose cost an untrusted text decides, each in a process of its own that the kernel ends at a limit.

Some scorers evaluate what they read. No pre-check can say how long that takes, and no signal handler of Python's can
interrupt a single operation on large numbers, so the limits are the kernel's: processor time, not the clock (a verdict
must not depend on how busy the machine is), and memory.
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
    """The call used up its processor time or its memory, or took its process with it."""


class Bounded:
    """A worker process that calls the functions of one module; started at the first call.

    The worker imports the module and runs `prepare`d calls itself; every other call runs in a fork of it, so that
    nothing which one text does reaches the next. Calls from several threads wait for one another.

    Args:
        module: with the functions; the worker should be able to import it quickly.
        seconds: of processor time a call may use.
        megabytes: of memory a call may use beside the worker's own.
    """

    def __init__(self, module: str, seconds: float = 2.0, megabytes: int = 1024) -> None:
        self.module, self.seconds, self.megabytes = module, seconds, megabytes
        self._lock = Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._prepared: set[Hashable] = set()

    def prepare(self, function: str, *args: Hashable) -> None:
        """Call a function within the worker and without limits, once for given arguments; it must be trusted.

        Raises:
            SelfplayError: the function raised, or the worker ended.
        """
        with self._lock:
            if (function, args) not in self._prepared or self._worker is None:
                self._ask(True, function, args)
                self._prepared.add((function, args))

    def call(self, function: str, *args: Any) -> Any:
        """What the function returns: JSON types. The arguments must be picklable.

        Raises:
            Exceeded: see there.
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
        except BaseException as error:  # half an exchange: nothing that comes later would belong to its question
            self.close()
            if isinstance(error, BrokenPipeError):
                line = b""
            else:
                raise
        if not line.endswith(b"\n"):
            self.close()
            raise SelfplayError(f"the process that runs {self.module} ended; its own message stands above")
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
