"""Restricts a sandbox process: mounts, privileges, resource limits. This module runs inside the sandbox."""

import ctypes
import os
import resource
import select
import signal
from typing import Any

NOSUID, NODEV = 2, 4  # mount
PDEATHSIG, DUMPABLE, CAPBSET_DROP, NO_NEW_PRIVS, CAP_AMBIENT, CLEAR_ALL = 1, 4, 24, 38, 47, 4  # prctl
NEWUSER = 0x10000000  # unshare
NOBODY = 65534
INODES = 4096
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: Any) -> None:
    """Call a C function that returns 0 on success.

    Raises:
        OSError: it returned another value.
    """
    plain = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    if getattr(libc, name)(*plain) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    """mount(2)."""
    call("mount", *(x if x is None else os.fsencode(x) for x in (source, target, kind)), flags, options)


def control(*args: int) -> None:
    """prctl(2)."""
    call("prctl", *args, *(0,) * (5 - len(args)))


def own_folder(megabytes: int) -> None:
    """Mount a tmpfs with limited size and number of files at /work, and change into it."""
    user, group = (os.getuid(), os.getgid()) if os.getuid() else (NOBODY, NOBODY)
    options = f"size={megabytes}m,nr_inodes={INODES},mode=700,uid={user},gid={group}"
    mount("tmpfs", "/work", "tmpfs", NOSUID | NODEV, options.encode())
    os.chdir("/work")


def become_nobody() -> None:
    """Drop root, which is exempt from limits on the number of processes."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_privileges() -> None:
    """Drop all capabilities permanently, including those over the sandbox's own namespaces; die with the parent."""
    libc.prctl(CAP_AMBIENT, ctypes.c_ulong(CLEAR_ALL), 0, 0, 0)
    for number in range(64):
        libc.prctl(CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)  # fails for undefined capabilities
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call("capset", header, none)
    control(NO_NEW_PRIVS, 1)
    die_with_starter()
    control(DUMPABLE, 0)  # proposed code must not inspect this process


def die_with_starter() -> None:
    """Die with the process that started this one, or exit now if its end of our stdin is already closed.

    Call it after the last change of user, which clears the setting.
    """
    control(PDEATHSIG, signal.SIGKILL)
    pipe = select.poll()
    pipe.register(0, select.POLLHUP)
    if pipe.poll(0):
        os._exit(1)


def limit(job: dict[str, Any]) -> None:
    """Set the resource limits of this process."""
    mega = 1 << 20
    limits = {
        resource.RLIMIT_AS: job["megabytes"] * mega,
        resource.RLIMIT_FSIZE: job["file_megabytes"] * mega,
        resource.RLIMIT_CPU: int(job["seconds"]) + 2,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if job["isolation"] != "none":  # without isolation, the user's other processes would count
        limits[resource.RLIMIT_NPROC] = job["threads"] + job["beside"]
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
