"""The kinds of isolation that this machine offers, to root and to an ordinary user, and a host for attacks."""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from attacks import RIGHT, TESTS, Attack

from selfplay.core import SelfplayError
from selfplay.sandbox.launch import bubblewrap
from selfplay.sandbox.sandbox import Sandbox

NOBODY = 65534
SOURCES = Path(__file__).parents[2] / "src"
# In a mount namespace of its own, so that the user can read Python and its packages wherever they lie.
AS_NOBODY = """
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/packages /mnt/src /mnt/tests
mount --rbind "$1" /mnt/python; mount --rbind "$2" /mnt/packages
mount --rbind "$3" /mnt/src; mount --rbind "$4" /mnt/tests
cd /; shift 4
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


@cache
def isolations(sandbox: Sandbox) -> tuple[str, ...]:
    """Those that work here."""
    found = []
    for isolation in ("bubblewrap", "namespaces"):
        if isolation == "bubblewrap" and bubblewrap() is None:
            continue
        try:
            replace(sandbox, isolation=isolation).run("", ("assert True",))
        except SelfplayError:
            continue
        found.append(isolation)
    return tuple(found)


def as_ordinary_user(script: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a script in Python as the user nobody; the caller must be root."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    python = f"/mnt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_NOBODY, "sh"]
    command += [sys.base_prefix, packages, str(SOURCES), str(Path(__file__).parent), python, "-B", "-c", script]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": "/mnt/src:/mnt/tests:/mnt/packages", "HOME": "/nonexistent"}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=env)


@cache
def why_no_ordinary_user() -> str | None:
    """Why nothing can be run as an ordinary user; None where it can."""
    if os.getuid() != 0:
        return "the tests run as an ordinary user already"
    if not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        return "unshare, setpriv or mount is not installed"
    tried = as_ordinary_user("import os; print(os.getuid())")
    return None if tried.stdout == f"{NOBODY}\n" else f"root cannot become nobody: {tried.stderr.strip()[:200]}"


class Host:
    """What an attack aims at: a file, a folder, a port, a process and a secret of the trainer's."""

    def __enter__(self) -> "Host":
        os.environ["SELFPLAY_TEST_SECRET"] = "0123456789"
        self.earlier = set(descendants(os.getpid()))  # of other tests: the worker of scorers, say
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans become our children: whoever is left is seen
        self.temporary = TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        (self.folder / "there").write_text("x")
        self.folder.chmod(0o777)
        self.victim = subprocess.Popen(["sleep", "1000"])
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
        self.server.close()
        self.victim.kill()
        self.victim.wait()
        self.temporary.cleanup()

    def fare(self, attack: Attack, sandbox: Sandbox) -> tuple[bool, ...]:
        """Which tests the attack passes."""
        places = {"port": self.server.getsockname()[1], "folder": self.folder, "pid": os.getpid()}
        code = attack.code
        for name, value in {**places, "victim": self.victim.pid}.items():
            code = code.replace("{" + name + "}", str(value))
        tests = (("", "the secret 42"), ("7", "the secret 43")) if attack.program else TESTS
        return sandbox.run(code, tests).passed

    def _new(self) -> set[int]:
        return set(descendants(os.getpid())) - self.earlier

    def harms(self) -> list[str]:
        """What has happened to it."""
        found = []
        if [path.name for path in self.folder.iterdir()] != ["there"]:
            found.append("a file was written")
        if self.victim.poll() is not None:
            found.append("a process was killed")
        try:
            self.server.accept()
            found.append("somebody connected")
        except BlockingIOError:
            pass
        left = [pid for pid in self._new() if b"selfplay.sandbox" in _command(pid)]
        return [*found, *(f"process {pid} is left" for pid in left)]


def fares(attacks: list[Attack], sandbox: Sandbox) -> dict[str, object]:
    """Name -> what each attack passes, "harms" -> what they did, "works" -> whether right code passes afterwards."""
    with Host() as host, ThreadPoolExecutor(4) as pool:
        passed = dict(zip([a.name for a in attacks], pool.map(lambda a: host.fare(a, sandbox), attacks), strict=True))
        return {**passed, "harms": host.harms(), "works": sandbox.run(RIGHT + "# after", TESTS).share}


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _read(task).split()):
            found += [child, *descendants(child)]
    return found


def _command(pid: int) -> bytes:
    return _read(Path(f"/proc/{pid}/cmdline"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""
