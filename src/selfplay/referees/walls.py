"""The walls around code that is run: namespaces of Linux, its own root, no privilege, limits. Only for `cell.py`."""

import ctypes
import os
import resource
from typing import Any

Job = dict[str, Any]
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # statvfs flag -> mount flag; a remount must keep them
PDEATHSIG, DUMPABLE, CAPBSET_DROP, NO_NEW_PRIVS = 1, 4, 24, 38  # prctl
NOBODY = 65534
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: Any) -> None:
    """A C function that gives 0, or an OSError with its name."""
    plain = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    if getattr(libc, name)(*plain) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    call("mount", *(x if x is None else os.fsencode(x) for x in (source, target, kind)), flags, options)


def isolate(job: Job) -> None:
    """New namespaces (network, processes, mounts, users, IPC), a root of its own, no privilege, nobody for root.

    Raises:
        OSError: the kernel does not allow it.
    """
    rest = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if os.getuid() == 0:
        try:
            call("unshare", rest)
        except PermissionError:  # a container's root
            become_nobody()
        else:
            build(job)
            become_nobody()
            rest = 0
    user, group = os.getuid(), os.getgid()
    call("unshare", NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    if rest:
        call("unshare", rest)
        build(job)
    os.chroot(job["folder"])
    os.chdir("/work")
    drop_capabilities()


def control(*args: int) -> None:
    """prctl."""
    call("prctl", *args, *(0,) * (5 - len(args)))


def become_nobody() -> None:
    """Give root up: limits on the number of processes do not bind it."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    control(DUMPABLE, 1)  # so that /proc/self stays its own


def build(job: Job) -> None:
    """A file system of some megabytes in memory, with Python's library and those of C, which cannot be written."""
    root = job["folder"]
    owner = NOBODY if os.getuid() == 0 else os.getuid()
    mount(None, "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, f"size={job['file_megabytes']}m,nr_inodes=4096,mode=755".encode())
    for path in job["library"]:
        inside = root + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        os.makedirs(inside, exist_ok=True)
        show(path, inside)
    os.mkdir(root + "/dev")
    for device in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        with open(root + device, "w"):
            pass
        mount(device, root + device, None, BIND)
    os.mkdir(root + "/work")
    if os.getuid() == 0:
        os.chown(root + "/work", owner, owner)


def show(path: str, inside: str) -> None:
    """A folder, for reading."""
    mount(path, inside, None, BIND | REC)
    flags = os.statvfs(inside).f_flag
    kept = sum(there for here, there in KEPT.items() if flags & here)
    mount(None, inside, None, BIND | REMOUNT | RDONLY | NOSUID | kept)


def drop_capabilities() -> None:
    """Also those over its own namespaces, and for good."""
    for number in range(64):
        libc.prctl(CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)  # fails for those that there are not
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call("capset", header, none)
    control(NO_NEW_PRIVS, 1)


def limit(job: Job) -> None:
    """What the kernel lets one process have."""
    mega = 1 << 20
    limits = {
        resource.RLIMIT_AS: job["megabytes"] * mega,
        resource.RLIMIT_FSIZE: job["file_megabytes"] * mega,
        resource.RLIMIT_CPU: int(job["seconds"]) + 2,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if job["isolated"]:  # only there are the user's processes counted apart; two are these here
        limits[resource.RLIMIT_NPROC] = job["processes"] + 2
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
