"""A seccomp filter for proposed code: it allows the system calls that a Python program needs to compute.

The filter is an allow list, so system calls of newer kernels are denied too. A process cannot fork, so the limit on its
address space bounds its memory, and it cannot use memory that is accounted elsewhere (System V segments, memfds,
sockets, message queues, keyrings). This module runs inside the sandbox.
"""

import ctypes
import errno
import platform
import struct

NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2  # prctl
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
THREAD = 0x00000100 | 0x00010000  # CLONE_VM, CLONE_THREAD
NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW*
TERMINAL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
AF_UNIX = 1
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH, column below
NEWER = 424  # from here on numbers are the same on all machines; libraries fall back on ENOSYS
# name:number on x86_64:number on aarch64
CALLS = """
read:0:63 write:1:64 open:2: openat:257:56 close:3:57 close_range:436:436 stat:4: fstat:5:80 lstat:6: lseek:8:62
newfstatat:262:79 statx:332:291 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70
preadv2:327:286 pwritev2:328:287 access:21: faccessat:269:48 faccessat2:439:439 dup:32:23 dup2:33: dup3:292:24
fcntl:72:25 flock:73:32 fsync:74:82 fdatasync:75:83 truncate:76:45 ftruncate:77:46 fallocate:285:47 fadvise64:221:223
getdents:78: getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82: renameat:264:38 renameat2:316:276
mkdir:83: mkdirat:258:34 rmdir:84: creat:85: link:86: linkat:265:37 unlink:87: unlinkat:263:35 symlink:88:
symlinkat:266:36 readlink:89: readlinkat:267:78 chmod:90: fchmod:91:52 fchmodat:268:53 umask:95:166 utimensat:280:88
utime:132: utimes:235: statfs:137:43 fstatfs:138:44 sendfile:40:71 copy_file_range:326:285 pipe:22: pipe2:293:59
select:23: pselect6:270:72 poll:7: ppoll:271:73 epoll_create:213: epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232: epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284: eventfd2:290:19 mmap:9:222 mprotect:10:226
munmap:11:215 brk:12:214 mremap:25:216 msync:26:227 mincore:27:232 madvise:28:233 rt_sigaction:13:134
rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133
sigaltstack:131:132 pause:34: kill:62:129 tkill:200:130 tgkill:234:131 sched_yield:24:124 sched_getaffinity:204:123
sched_getparam:143:121 sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126
getpriority:140:141 futex:202:98 futex_waitv:449:449 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293
membarrier:324:283 restart_syscall:219:128 set_tid_address:218:96 arch_prctl:158: nanosleep:35:101
clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201: times:100:153
getitimer:36:102 setitimer:38:103 alarm:37: getrandom:318:278 getpid:39:172 getppid:110:173 gettid:186:178
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158
getpgid:121:155 getpgrp:111: getsid:124:156 getrlimit:97:163 getrusage:98:165 sysinfo:99:179 uname:63:160
getcpu:309:168 wait4:61:260 waitid:247:95 exit:60:93 exit_group:231:94 sendto:44:206 recvfrom:45:207 sendmsg:46:211
recvmsg:47:212 shutdown:48:210 getsockname:51:204 getpeername:52:205 getsockopt:55:209 setsockopt:54:208
"""
SPECIAL = {"clone": (56, 220), "ioctl": (16, 29), "socketpair": (53, 199), "prlimit64": (302, 261)}
LOAD, EQUAL, AT_LEAST, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # BPF
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in seccomp_data


class Unsupported(OSError):
    """No filter exists for this machine."""


def allow_computing() -> None:
    """Install the filter for this process and its threads.

    Raises:
        OSError: the kernel does not support seccomp filters, or no filter exists for this machine.
    """
    code = _program(platform.machine())
    buffer = ctypes.create_string_buffer(code)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((NO_NEW_PRIVS, 1, 0), (SET_SECCOMP, FILTER, ctypes.byref(program))):
        if libc.prctl(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments), 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel does not support seccomp filters")


def _program(machine: str) -> bytes:
    """The filter as classic BPF."""
    if machine not in MACHINES:
        raise Unsupported(errno.ENOTSUP, f"no system-call filter exists for {machine}")
    arch, column = MACHINES[machine]
    special = {name: numbers[column] for name, numbers in SPECIAL.items()}
    code = [_step(LOAD, ARCH), _step(EQUAL, arch, 1, 0), _step(RETURN, KILL), _step(LOAD, NUMBER)]
    for call in CALLS.split():
        number = call.split(":")[1 + column]
        if number:
            code += [_step(EQUAL, int(number), 0, 1), _step(RETURN, ALLOW)]
    allow, deny = _step(RETURN, ALLOW), _step(RETURN, ERRNO | errno.EPERM)
    checks = {
        "clone": [_step(ANY_BIT, NAMESPACES, 3, 0), _step(AND, THREAD), _step(EQUAL, THREAD, 0, 1), allow, deny],
        "ioctl": [*(step for request in TERMINAL for step in (_step(EQUAL, request, 0, 1), allow)), deny],
        "socketpair": [_step(EQUAL, AF_UNIX, 0, 1), allow, deny],
        "prlimit64": [_step(EQUAL, 0, 0, 1), allow, deny],
    }
    for name, steps in checks.items():
        load = _step(LOAD, ARGUMENTS + (8 if name == "ioctl" else 0))  # the low half of the relevant argument
        code += [_step(EQUAL, special[name], 0, len(steps) + 1), load, *steps]
    code += [_step(AT_LEAST, NEWER, 0, 1), _step(RETURN, ERRNO | errno.ENOSYS), deny]
    return b"".join(code)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)
