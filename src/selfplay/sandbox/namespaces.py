"""Isolation without bubblewrap: Linux namespaces and a separate root. Runs inside the sandbox."""

import ctypes
import os
import select
import signal
from typing import Any

from selfplay.sandbox import confine
from selfplay.sandbox.confine import NODEV, NOSUID, call, libc, mount

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000  # unshare
RDONLY, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 32, 4096, 16384, 1 << 18, 2
KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # statvfs flag -> mount flag, kept when remounting
ROOT = "/sys"  # mount point of the new root in the sandbox's mount namespace, so nothing is left on disk
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # not in the C library


def enter(job: dict[str, Any]) -> None:
    """Continue as the first process of new namespaces (network, PID, mount, IPC, UTS, and user unless root).

    The calling process does not return: it waits, and exits when the sandbox does or its own parent is gone.

    Raises:
        OSError: the kernel does not allow it.
    """
    rest = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if os.getuid() == 0:
        try:
            call("unshare", rest)
        except PermissionError:  # root in a container
            confine.become_nobody()
            confine.control(confine.DUMPABLE, 1)  # so that it can write to /proc/self
    if os.getuid() != 0:
        user, group = os.getuid(), os.getgid()
        call("unshare", confine.NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        call("unshare", rest)
        job["beside"] += 1  # the process that waits outside
    _build(job)
    _change_root()
    confine.control(confine.PDEATHSIG, signal.SIGKILL)  # after the last change of user, which clears it
    if first := os.fork():
        _wait(first)


def _wait(first: int) -> None:
    """Exit with the first process, or kill it at the end of stdin, when the parent is gone."""
    ended = os.pidfd_open(first)
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended not in ready:
            if os.read(0, 1):
                continue
            os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        os._exit(0)


def _build(job: dict[str, Any]) -> None:
    """Build a root with read-only libraries of Python and C, four devices, and an empty folder /work."""
    mount(None, "/", None, REC | PRIVATE)
    mount("tmpfs", ROOT, "tmpfs", NOSUID | NODEV, b"size=1m,nr_inodes=1024,mode=755")
    for path in job["library"]:
        inside = ROOT + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        os.makedirs(inside, exist_ok=True)
        mount(path, inside, None, BIND | REC)
        _read_only(inside)
    os.mkdir(f"{ROOT}/dev")
    for device in DEVICES:
        with open(ROOT + device, "w"):
            pass
        mount(device, ROOT + device, None, BIND)
    os.mkdir(f"{ROOT}/work")
    _read_only(ROOT)


def _read_only(path: str) -> None:
    flags = os.statvfs(path).f_flag
    kept = sum(there for here, there in KEPT.items() if flags & here)
    mount(None, path, None, BIND | REMOUNT | RDONLY | NOSUID | kept)


def _change_root() -> None:
    """Pivot to the new root and detach the old one."""
    os.chdir(ROOT)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"the system call number of pivot_root on {os.uname().machine} is unknown")
    if libc.syscall(number, b".", b".") != 0:
        raise OSError(0, f"pivot_root: {os.strerror(ctypes.get_errno())}")
    call("umount2", b".", DETACH)
    os.chdir("/")
