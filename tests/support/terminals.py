"""A process at a pseudo-terminal: what a person would type and see."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cli

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")
SPINNER = re.compile("[\u2800-\u28ff][^\u2800-\u28ff\n]*?\\.\\.\\.\n?")  # erased on a screen
PATIENCE = 120.0  # seconds, on a machine that others use as well


SHELL = """
import os, shlex, signal, sys
import selfplay.building, selfplay.players.language_model, selfplay.terminal.play, selfplay.tasks.tiny_world
from selfplay.__main__ import main
while True:
    sys.argv = ["selfplay", *shlex.split(input("$ "))]
    if not (child := os.fork()):
        sys.exit(main())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    print(f"ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
"""


class Terminal:
    """A command of `selfplay` at a terminal of 80 columns; without arguments a prompt at which several can be typed.

    What is typed at the prompt runs in forks of a process that has imported everything.

    Attributes:
        seen: everything on the screen so far, without escape sequences.
    """

    def __init__(self, *args: str, cwd: Path) -> None:
        self.raw, self.read = b"", 0
        self.own, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40", "HF_HUB_OFFLINE": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(cli.ROOT / "src"), env.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, *(["-m", "selfplay", *args] if args else ["-c", SHELL])],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_controlling,
        )
        os.close(theirs)

    @property
    def seen(self) -> str:
        return SPINNER.sub("", ESCAPES.sub("", self.raw.decode("utf-8", "replace")))

    def until(self, pattern: str) -> str:
        """Wait until the pattern is on the screen behind what was awaited before; what came until then."""
        end = time.monotonic() + PATIENCE
        while not (found := re.compile(pattern).search(self.seen, self.read)):
            if time.monotonic() > end or not self._more(end):
                raise AssertionError(f"no '{pattern}' on the screen:\n{self.seen[self.read :]}")
        text, self.read = self.seen[self.read : found.end()], found.end()
        return text

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self.own, f"{text}\n".encode())

    def press(self, key: str) -> None:
        """Press Ctrl and a letter, once the process and its forks wait: for a key, or for a fork.

        readline prints its prompt before it begins to wait. A signal in between would be noticed at the next key only.
        """
        asleep, end = 0, time.monotonic() + PATIENCE
        while asleep < 5 and time.monotonic() < end:
            pid = self.process.pid
            forks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            states = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] for one in (pid, *forks)]
            asleep = asleep + 1 if set(states) == {"S"} else 0
            time.sleep(0.02)
        os.write(self.own, bytes([ord(key.upper()) - 64]))

    def ended(self) -> int:
        """Wait for the end of the process; its exit code."""
        end = time.monotonic() + PATIENCE
        while self._more(end):
            pass
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process did not end; on the screen:\n{self.seen}") from None

    def _more(self, end: float) -> bool:
        """Read what the process writes; whether it may write more."""
        while time.monotonic() < end:
            if select.select([self.own], [], [], 0.1)[0]:
                try:
                    part = os.read(self.own, 65536)
                except OSError:  # its end is closed
                    return False
                self.raw += part
                return bool(part)
        return False


def _controlling() -> None:
    """Make stdin the controlling terminal of a new session, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(*args: str, cwd: Path) -> Iterator[Terminal]:
    """A terminal whose process is over in the end."""
    opened = Terminal(*args, cwd=cwd)
    try:
        yield opened
    finally:
        with suppress(ProcessLookupError):
            os.killpg(opened.process.pid, signal.SIGKILL)
        opened.process.wait()
        os.close(opened.own)
