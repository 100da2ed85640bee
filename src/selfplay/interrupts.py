"""Signal handling. Imports nothing slow: run.py installs the handlers before its other imports.

SIGINT (Ctrl-C) stops the run immediately. SIGTERM, SIGUSR1 and SIGUSR2, which clusters send before killing a job, stop
it after the current step, with a checkpoint. SIGHUP exits silently, since the terminal is gone. Repeating the signal,
or pressing Ctrl-C after another signal, exits at once. The exit code is 128 plus the signal number: 130 for SIGINT, 143
for SIGTERM, 138 for SIGUSR1, 140 for SIGUSR2. See docs/sweeps.md.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

AFTER_STEP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ONCE = 0.5  # seconds; repeats within this time count as one signal, as terminal and launcher may both send it


class Stopped(BaseException):
    """Raised to stop a run because of a signal; `number` is the signal number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """The signal state of this process.

    Attributes:
        first: the first signal that requested a stop, and its time.
        at_work: whether a run is in progress, so that Ctrl-C unwinds it.
        unsaved: whether a step worth finishing may be in progress.
        patient: whether the first signal is only recorded, since this process works for a launcher or waits for one.
        last_words: called right before an immediate exit.
        stop_file: a file whose existence also requests a stop; `writes`: whether this process creates it on a signal.
        earlier: handlers installed before ours.
    """

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.at_work = self.patient = False
        self.unsaved = True
        self.last_words: Callable[[], None] = lambda: None
        self.stop_file: Path | None = None
        self.writes = False
        self.earlier: dict[int, Any] = {}


_state = _State()


def watch(patient: bool = False, stop_file: Path | None = None, writes: bool = False) -> None:
    """Install the signal handlers; only in the main thread, as Python requires.

    Args:
        patient: if no run is in progress, record the first signal instead of exiting.
        stop_file: a file that stops all processes of a sweep once it exists.
        writes: whether this process creates the stop file on a signal; true for the one that waits for the others.
    """
    _state.patient, _state.stop_file, _state.writes = patient, stop_file, writes
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGHUP, *AFTER_STEP):
        found = signal.getsignal(number)
        if found is _handle or (number == signal.SIGHUP and found == signal.SIG_IGN):  # nohup
            continue
        if callable(found) and number in AFTER_STEP:
            _state.earlier[number] = found
        signal.signal(number, _handle)


def asked() -> int | None:
    """The number of the signal that requested a stop, or None."""
    if _state.first is not None:
        return _state.first[0]
    if _state.stop_file is not None and _state.stop_file.exists():
        return int(signal.SIGTERM)
    return None


def forget() -> None:
    """Clear the stop request, since the work that it was meant for has ended."""
    _state.first = None


def is_patient() -> bool:
    """Whether this process works for a launcher, or waits for one."""
    return _state.patient


def hand_on(number: int) -> None:
    """Call the handler that was installed for this signal before ours, if any.

    submitit's handler for SIGUSR2 requeues the job and ends the process.
    """
    earlier = _state.earlier.get(number)
    if earlier is not None:
        earlier(number, None)


@contextmanager
def leaving(last_words: Callable[[], None]) -> Iterator[None]:
    """Within the block, call `last_words` before an immediate exit."""
    before, _state.last_words = _state.last_words, last_words
    try:
        yield
    finally:
        _state.last_words = before


@contextmanager
def at_work(last_words: Callable[[], None]) -> Iterator[None]:
    """Mark that a run is in progress within the block."""
    before, _state.at_work = _state.at_work, True
    try:
        with leaving(last_words):
            yield
    finally:
        _state.at_work = before


@contextmanager
def nothing_to_save() -> Iterator[None]:
    """Within the block no step is in progress, so every signal stops the run immediately."""
    _state.unsaved = False
    try:
        yield
    finally:
        _state.unsaved = True


def _handle(number: int, frame: FrameType | None) -> None:
    first, now = _state.first, time.monotonic()
    if number == signal.SIGHUP:
        _leave(number)
    if first is None:
        _state.first = number, now
        if _state.writes and _state.stop_file is not None:
            with suppress(OSError):
                _state.stop_file.touch()
        if number != signal.SIGINT and (_state.writes or _state.at_work):
            _tell(f"{signal.Signals(number).name}: stopping after this step; send the signal again to exit at once")
        if _state.at_work and (number == signal.SIGINT or not _state.unsaved):
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)
        if not _state.at_work and not _state.patient:
            _leave(number)
    elif (number == signal.SIGINT and first[0] != number) or (number == first[0] and now - first[1] > ONCE):
        _leave(number)


def _tell(text: str) -> None:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())


def _leave(number: int) -> None:
    with suppress(OSError):
        _state.last_words()
        sys.stdout.flush()
    os._exit(128 + number)
