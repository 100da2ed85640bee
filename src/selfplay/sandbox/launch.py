"""Starts a sandbox process: with bubblewrap, with namespaces directly, or without isolation.

Its program is sent with the job as compiled code, so it needs only the libraries of Python and C from the host.
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
# In order of imports.
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
    """Start a process for a job; closing its stdin ends it, and it reports results on stdout.

    Args:
        job: the job; its `isolation` must not be "auto".
        pipes: file descriptors that the process inherits.
        folder: working directory without isolation.
    """
    isolation = job["isolation"]
    by_bubblewrap = isolation == "bubblewrap"
    source = os.memfd_create("job")
    try:
        full_job = {**job, "modules": _programs(), "library": libraries(), "beside": 1}
        with open(source, "wb", closefd=False) as file:
            file.write(json.dumps(full_job).encode())
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
    """The path of bubblewrap, or None."""
    return shutil.which("bwrap")


def _bubblewrap() -> list[str]:
    """The bubblewrap command: new namespaces, and a read-only root with libraries and four devices."""
    command = [bubblewrap() or "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session"]
    needed = ["SYS_ADMIN"]  # over its own namespaces, to mount /work
    if os.getuid() == 0:
        needed += ["SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH"]  # to become nobody
    else:
        command += ["--unshare-user"]
    for capability in needed:
        command += ["--cap-add", f"CAP_{capability}"]
    python = os.path.realpath(sys.executable)
    inside = [*libraries(), python, *DEVICES]
    for folder in sorted({str(parent) for path in inside for parent in Path(path).parents} - {"/"}):
        command += ["--dir", folder]  # directories created implicitly are accessible to root only
    for path in libraries():
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    command += ["--ro-bind", python, python, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    return [*command, "--dir", "/work", "--remount-ro", "/", "--chdir", "/", "--"]


@lru_cache(maxsize=1)
def libraries() -> list[str]:
    """The folders that Python needs to import its standard library, with shared libraries; symlinks are kept."""
    standard = [str(Path(sys.base_prefix, part).resolve()) for part in ("lib", "lib64")]
    found = [p for p in ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", *standard) if os.path.isdir(p)]
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def _programs() -> list[tuple[str, str]]:
    """Names and compiled code of the modules; compiling took a sixth of a process's time."""
    found = []
    for name in MODULES:
        source = Path(__file__).with_name(f"{name}.py").read_text()
        compiled = compile(source, f"<selfplay.sandbox.{name}>", "exec")
        found.append((name, base64.b64encode(marshal.dumps(compiled)).decode()))
    return found


def check_isolation(isolation: object) -> None:
    """Raise SelfplayError unless the isolation is valid and available."""
    if isolation not in ISOLATIONS:
        raise SelfplayError(f"isolation is {isolation!r}; choose one of {', '.join(ISOLATIONS)}")
    if isolation == "bubblewrap" and bubblewrap() is None:
        raise SelfplayError(
            "isolation=bubblewrap needs the program bwrap, which is not installed; install the package bubblewrap, "
            "or choose isolation=auto"
        )
