"""Starting a process of the sandbox: with bubblewrap, with namespaces by hand, or without isolation.

Its program comes with its job, compiled: of the host's files it sees the libraries of Python and C alone.
"""

import base64
import json
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from selfplay.core import SelfplayError

ISOLATIONS = ("auto", "bubblewrap", "namespaces", "none")
# Each after what it imports.
MODULES = ("wire", "names", "confine", "seccomp", "namespaces", "child", "remote", "judge", "process")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
BOOT = """
import base64, json, marshal, sys, types
with open(int(sys.argv[1]), "rb") as file:
    job = json.loads(file.read())
for name in ("selfplay", "selfplay.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, program in job.pop("modules"):
    module = sys.modules["selfplay.sandbox." + name] = types.ModuleType("selfplay.sandbox." + name)
    setattr(sys.modules["selfplay.sandbox"], name, module)
    exec(marshal.loads(base64.b64decode(program)), module.__dict__)
del sys.argv[1:]
module.main(job)
"""


def launch(job: Mapping[str, object], pipes: tuple[int, ...], folder: str | None) -> "subprocess.Popen[bytes]":
    """Start a process with a job; its stdin is to be closed when it may end, its stdout tells what came of it.

    Args:
        job: with `isolation`, by the name of one that is not "auto".
        pipes: descriptors that it inherits.
        folder: where it works without isolation.
    """
    isolation = job["isolation"]
    by_bubblewrap = isolation == "bubblewrap"
    source = os.memfd_create("job")
    try:
        whole = {**job, "modules": _programs(), "library": libraries(), "beside": 1}
        with open(source, "wb", closefd=False) as file:
            file.write(json.dumps(whole).encode())
        os.lseek(source, 0, os.SEEK_SET)
        command = [os.path.realpath(sys.executable), "-I", "-S", "-X", "utf8", "-c", BOOT, str(source)]
        return subprocess.Popen(
            [*_bubblewrap(), *command] if by_bubblewrap else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder or "/",
            env={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": folder or "/work"},
            pass_fds=(source, *pipes),
            start_new_session=True,
        )
    finally:
        os.close(source)


def bubblewrap() -> str | None:
    """Where bubblewrap is installed."""
    return shutil.which("bwrap")


def _bubblewrap() -> list[str]:
    """Its command: new namespaces of every kind, and a root that holds libraries and four devices for reading."""
    command = [bubblewrap() or "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session"]
    needed = ["SYS_ADMIN"]  # until it has mounted its folder; over its own namespaces
    if os.getuid() == 0:
        needed += ["SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH"]  # until it is nobody
    else:
        command += ["--unshare-user"]
    for capability in needed:
        command += ["--cap-add", f"CAP_{capability}"]
    python = os.path.realpath(sys.executable)
    inside = [*libraries(), python, *DEVICES]
    for folder in sorted({str(parent) for path in inside for parent in Path(path).parents} - {"/"}):
        command += ["--dir", folder]  # those that it makes by itself are root's alone
    for path in libraries():
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    command += ["--ro-bind", python, python, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    return [*command, "--dir", "/work", "--remount-ro", "/", "--chdir", "/", "--"]


@lru_cache(maxsize=1)
def libraries() -> list[str]:
    """The folders that a Python needs to import its own modules, those of C included; links stay links."""
    standard = [str(Path(sys.base_prefix, part).resolve()) for part in ("lib", "lib64")]
    found = [p for p in ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", *standard) if os.path.isdir(p)]
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def _programs() -> list[tuple[str, str]]:
    """Each module by name, compiled once by the Python that runs it: that was a sixth of a process's time."""
    found = []
    for name in MODULES:
        source = Path(__file__).with_name(f"{name}.py").read_text()
        compiled = compile(source, f"<selfplay.sandbox.{name}>", "exec")
        found.append((name, base64.b64encode(marshal.dumps(compiled)).decode()))
    return found


def check_isolation(isolation: object) -> None:
    """Raise SelfplayError unless it is the name of one."""
    if isolation not in ISOLATIONS:
        raise SelfplayError(f"isolation is {isolation!r}; choose one of {', '.join(ISOLATIONS)}")
    if isolation == "bubblewrap" and bubblewrap() is None:
        raise SelfplayError(
            "isolation=bubblewrap needs the program bwrap, which is not installed; install the package bubblewrap, "
            "or choose isolation=auto"
        )
