"""Isolation by hand, where there is no bubblewrap: Linux namespaces and a root of its own. Runs inside the sandbox."""

import ctypes
import os
import select
import signal
from typing import Any

from selfplay.sandbox import confine
from selfplay.sandbox.confine import NODEV, NOSUID, call, libc, mount

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000  # unshare
RDONLY, REMOUNT, BIND, REC, PRIVATE, DETACH = 1, 32, 4096, 16384, 1 << 18, 2
KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # statvfs flag -> mount flag; a remount must keep them
ROOT = "/sys"  # hidden, in the sandbox's own mount namespace, by what becomes its root: nothing is left on disk
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # no function of the C library


def enter(job: dict[str, Any]) -> None:
    """Go on as the first process of new namespaces (network, processes, mounts, IPC, and users unless it is root).

    The process that calls does not return: it waits, and ends when the sandbox does or its own parent is gone.

    Raises:
        OSError: the kernel does not allow it.
    """
    rest = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if os.getuid() == 0:
        try:
            call("unshare", rest)
        except PermissionError:  # a container's root
            confine.become_nobody()
            confine.control(confine.DUMPABLE, 1)  # so that /proc/self stays its own
    if os.getuid() != 0:
        user, group = os.getuid(), os.getgid()
        call("unshare", confine.NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        call("unshare", rest)
        job["beside"] += 1  # this process, which waits outside
    _build(job)
    _change_root()
    confine.control(confine.PDEATHSIG, signal.SIGKILL)  # after the last change of users, which clears it
    if first := os.fork():
        _wait(first)


def _wait(first: int) -> None:
    """End with the first process, or end it when stdin does: whoever started us is gone."""
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
    """A root with Python's library and those of C for reading, four devices, and an empty folder."""
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
    """Make it the root, and let go of the one before."""
    os.chdir(ROOT)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"the number of pivot_root on {os.uname().machine} is not known")
    if libc.syscall(number, b".", b".") != 0:
        raise OSError(0, f"pivot_root: {os.strerror(ctypes.get_errno())}")
    call("umount2", b".", DETACH)
    os.chdir("/")
