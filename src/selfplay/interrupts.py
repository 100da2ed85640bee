"""How signals end a run. Imports nothing that takes time: run.py watches before it imports anything else.

SIGINT (Ctrl-C) stops the run where it is. SIGTERM, SIGUSR1 and SIGUSR2, with which clusters announce that a job will be
killed, stop it after the step that is under way, with a checkpoint. SIGHUP ends it without a word, since its terminal
is gone. The same signal once more, or Ctrl-C after another one, ends it at once. The exit code is 128 and the signal's
number: 130 for SIGINT, 143 for SIGTERM, 138 for SIGUSR1, 140 for SIGUSR2. See docs/sweeps.md.
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
ONCE = 0.5  # seconds in which a repeated signal is the same request: a terminal and a launcher may both send it


class Stopped(BaseException):
    """The run stops because a signal asked for it; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """What this process knows of its signals; there is one a process.

    Attributes:
        first: the signal that asked to stop, and when.
        at_work: whether a run is under way, so that Ctrl-C unwinds it.
        unsaved: whether a step may be under way that is worth finishing.
        patient: whether the first signal is only noted: this process works for a launcher, or waits for one.
        last_words: called right before the process ends at once.
        stop_file: whose being there asks to stop, too; `writes`: whether the first signal makes this process write it.
        earlier: handlers that somebody else had installed.
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
    """Handle the signals from now on; not in a thread, where Python cannot.

    Args:
        patient: note the first signal instead of leaving at once where no run is under way.
        stop_file: the launcher's processes of one sweep stop when it is there.
        writes: whether a signal makes this process write it: the one that waits for the others.
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
    """The number of the signal that asked this process to stop; None if none has."""
    if _state.first is not None:
        return _state.first[0]
    if _state.stop_file is not None and _state.stop_file.exists():
        return int(signal.SIGTERM)
    return None


def forget() -> None:
    """Forget that a signal asked to stop: whatever it was meant for has ended."""
    _state.first = None


def is_patient() -> bool:
    """Whether this process works for a launcher, or waits for one."""
    return _state.patient


def hand_on(number: int) -> None:
    """Call the handler of a signal that somebody else had installed before, if there was one.

    submitit's takes SIGUSR2 to queue the job again and ends the process.
    """
    earlier = _state.earlier.get(number)
    if earlier is not None:
        earlier(number, None)


@contextmanager
def leaving(last_words: Callable[[], None]) -> Iterator[None]:
    """While the block lasts, `last_words` is called before the process ends at once."""
    before, _state.last_words = _state.last_words, last_words
    try:
        yield
    finally:
        _state.last_words = before


@contextmanager
def at_work(last_words: Callable[[], None]) -> Iterator[None]:
    """A run is under way while the block lasts."""
    before, _state.at_work = _state.at_work, True
    try:
        with leaving(last_words):
            yield
    finally:
        _state.at_work = before


@contextmanager
def nothing_to_save() -> Iterator[None]:
    """While the block lasts, every signal stops the run where it is: no step is under way."""
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
            _tell(f"{signal.Signals(number).name}: stopping after this step; the same signal again ends at once")
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
