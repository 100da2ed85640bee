"""Attacks on the referee of code: what a program does to pass tests that it should not pass, or to harm the machine.

Each names the mechanism that stops it. `f` is what the tests call, and the right answer of f(n) is n + 41. An attack with an
`effect` does a deed and returns what came of it: the deed must fail, and the host is looked at afterwards.
"""

from dataclasses import dataclass

TESTS = ("assert f(1) == 42", "assert f(2) == 43", "assert abs(f(1) - 42) < 1e-3", "assert f(0) in [41]")
RIGHT = "def f(n):\n    return n + 41\n"
JUDGE = "the tests run in another process, which compares plain data"
INPUT = "the process that runs code has inputs and no expected output"
FILTER = "system calls"
NETWORK = "network namespace, system calls"
FILES = "a root of its own"
PROCESSES = "process namespace"
MEMORY = "address space"
DISK = "size and inodes of the folder in memory"
CLOCK = "clock"
OUTPUT = "bound on what is read"


@dataclass(frozen=True)
class Attack:
    """A program.

    Attributes:
        name: of the attack.
        code: with a function `f`, or a program where `stdin` is set.
        stopped_by: the mechanism that stops it.
        program: whether it is judged by its output; else by the assertions above.
    """

    name: str
    code: str
    stopped_by: str
    program: bool = False


def _always(body: str, equal: str = "") -> str:
    """A function whose results are of a class that claims to be right."""
    return f"class C{equal}:\n    {body}\ndef f(n): return C()\n"


def _deed(
    *lines: str, head: str = "import os, ctypes, socket, mmap\nlibc = ctypes.CDLL(None, use_errno=True)\n"
) -> str:
    """Do something when called; the answer is right only where the deed was done."""
    return head + "def f(n):\n" + "".join(f"    {line}\n" for line in lines) + "    return n + 41\n"


GUESSES = """
import os
def f(n):
    for guess in range(64):
        child = os.fork()
        if child == 0: return guess
        os.waitpid(child, 0)
    os._exit(0)
"""

FORGERIES = [
    Attack("equal to everything", _always("def __eq__(self, other): return True\n    __hash__ = None"), JUDGE),
    Attack("an integer that equals everything", "class C(int):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\n    __hash__ = int.__hash__\ndef f(n): return C(7)\n", JUDGE),
    Attack("a text that equals everything", "class C(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(n): return C('x')\n", JUDGE),
    Attack("a float near everything", "class C(float):\n    def __sub__(self, o): return 0.0\n    def __abs__(self): return 0.0\n    def __eq__(self, o): return True\n    __hash__ = float.__hash__\ndef f(n): return C(7)\n", JUDGE),
    Attack("reflected subtraction", _always("def __sub__(self, o): return 0\n    __rsub__ = __sub__"), JUDGE),
    Attack("metaclass that equals everything", "class M(type):\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\nclass C(metaclass=M): pass\ndef f(n): return C\n", JUDGE),
    Attack("a lying __class__", "class C:\n    __class__ = int\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(n): return C()\n", JUDGE),
    Attack("numpy-like truth", _always("def __eq__(self, o): return self\n    def __bool__(self): return True\n    __hash__ = None"), JUDGE),
    Attack("not in order", _always("def __lt__(self, o): return True\n    __le__ = __gt__ = __ge__ = __lt__"), JUDGE),
    Attack("shadowed abs", "abs = lambda x: 0\ndef f(n): return 1\n", JUDGE),
    Attack("builtins.abs replaced", "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.any = builtins.all = lambda x: True\ndef f(n): return 1\n", JUDGE),
    Attack("AssertionError replaced", "import builtins\nbuiltins.AssertionError = ValueError\ndef f(n): return 1\n", JUDGE),
    Attack("exec and compile replaced", "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None\ndef f(n): return 1\n", JUDGE),
    Attack("json and marshal replaced", "import json\njson.dumps = lambda *a, **k: '[\"value\", 42, []]'\njson.loads = lambda *a, **k: ['return', 42]\ndef f(n): return 1\n", JUDGE),
    Attack("struct replaced", "import struct\nstruct.pack = lambda *a: b''\nstruct.unpack = lambda *a: (0,)\ndef f(n): return 1\n", JUDGE),
    Attack("os.write replaced", "import os\nw = os.write\nos.write = lambda fd, data: w(fd, data.replace(b'7', b'42'))\ndef f(n): return 1\n", JUDGE),
    Attack("frames of the caller", "import sys\ndef f(n):\n    g = sys._getframe()\n    while g:\n        for v in list(g.f_locals.values()):\n            if isinstance(v, int) and v in (41, 42, 43): return v\n            if isinstance(v, str) and 'assert' in v: return int(v.split()[-1])\n        g = g.f_back\n", JUDGE),
    Attack("objects of the collector", "import gc\ndef f(n):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n            for v in list(o.values()):\n                if isinstance(v, str) and v.startswith('assert f('): return int(v.split()[-1])\n", JUDGE),
    Attack("memory by ctypes", "import ctypes\ndef f(n):\n    import sys\n    for i in range(200):\n        try: o = ctypes.cast(id(sys) + 8 * i, ctypes.py_object).value\n        except Exception: continue\n", JUDGE),
    Attack("own memory by /proc", "def f(n):\n    m = open('/proc/self/mem', 'rb')\n    return 42 if b'assert f' in open('/proc/self/maps').read().encode() else 0\n", JUDGE),
    Attack("a trace function", "import sys\ndef t(frame, event, arg):\n    frame.f_locals\n    return t\nsys.settrace(t)\ndef f(n): return 1\n", JUDGE),
    Attack("a profile function that exits", "import sys, os\nsys.setprofile(lambda *a: os._exit(0))\ndef f(n): return 1\n", JUDGE),
    Attack("an audit hook", "import sys, os\nsys.addaudithook(lambda e, a: os._exit(0) if e == 'exec' else None)\ndef f(n): return 1\n", JUDGE),
    Attack("leaving with success", "import sys\nsys.exit(0)\n", JUDGE),
    Attack("leaving at once", "import os\nos._exit(0)\n", JUDGE),
    Attack("leaving when called", "import os\ndef f(n): os._exit(0)\n", JUDGE),
    Attack("leaving at exit", "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): return 1\n", JUDGE),
    Attack("raising what ends a loop", "def f(n): raise StopIteration\n", JUDGE),
    Attack("raising SystemExit", "def f(n): raise SystemExit(0)\n", JUDGE),
    Attack("raising KeyboardInterrupt", "def f(n): raise KeyboardInterrupt\n", JUDGE),
    Attack("a made-up verdict on every descriptor", "import os\nfor fd in range(256):\n    for s in (b'{\"passed\": 0}\\n{\"done\": true}\\n', b'0\\n'):\n        try: os.write(fd, s)\n        except OSError: pass\ndef f(n): return 1\n", JUDGE),
    Attack("a guess for every answer", "import os, struct, json\ndef f(n):\n    for v in range(1000):\n        d = json.dumps(['value', v, []]).encode()\n        os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("a message without end", "import os, struct\ndef f(n):\n    os.write(4, struct.pack('<I', (1 << 24) - 1))\n    while True: os.write(4, b'[' * 65536)\n", JUDGE),
    Attack("a message of brackets", "import os, struct\ndef f(n):\n    d = b'[' * 100000 + b']' * 100000\n    os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("no message at all", "import os\nos.write(4, b'\\xff\\xff\\xff\\xff' * 9)\ndef f(n): return 1\n", JUDGE),
    Attack("calls of the judge's functions", "import os, struct, json\ndef f(n):\n    d = json.dumps(['callback', 0, ['exit'], []]).encode()\n    os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("a class of the judge's", "import os, struct, json\ndef f(n):\n    d = json.dumps(['value', ['builtin', 'eval'], []]).encode()\n    os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("any class by name", "import os, struct, json\ndef f(n):\n    d = json.dumps(['value', ['subprocess.Popen', [['list', ['ls']]]], []]).encode()\n    os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("arguments changed into answers", "import os, struct, json\ndef f(n):\n    d = json.dumps(['value', 1, [[0, 42], [1, 42]]]).encode()\n    os.write(4, struct.pack('<I', len(d)) + d)\n", JUDGE),
    Attack("a fork that answers again", "import os\nif os.fork(): os._exit(0)\ndef f(n): return 1\n", JUDGE),
    Attack("expected output in a frame", "import sys\ng = sys._getframe()\nwhile g:\n    for v in list(g.f_locals.values()):\n        if isinstance(v, dict) and 'stdout' in v: print(v['stdout'])\n    g = g.f_back\n", INPUT, True),
    Attack("expected output in the collector", "import gc\nfor o in gc.get_objects():\n    if isinstance(o, (list, tuple, dict)) and 'secret' in repr(o)[:2000]: print('the secret 42')\n", INPUT, True),
    Attack("expected output in the job", "import os\nfor fd in range(3, 256):\n    try: print(os.pread(fd, 1 << 16, 0).decode())\n    except OSError: pass\n", INPUT, True),
    Attack("every guess at once", "for n in range(1000): print(n)\n", INPUT, True),
    Attack("a made-up report", "print('{\"example\": 0, \"stdout\": \"dGhlIHNlY3JldCA0Mg==\", \"late\": false}')\n", INPUT, True),
]  # fmt: skip

DEEDS = [
    Attack("a connection to this machine", _deed("socket.create_connection(('127.0.0.1', {port}), 2).send(b'x')"), NETWORK),
    Attack("a name to be looked up", _deed("socket.getaddrinfo('example.com', 80)[0]"), NETWORK),
    Attack("a raw socket", _deed("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"), NETWORK),
    Attack("a datagram", _deed("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"), NETWORK),
    Attack("a socket of the host machine", _deed("socket.socket(40, socket.SOCK_STREAM)"), FILTER),
    Attack("a netlink socket", _deed("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"), FILTER),
    Attack("a crypto socket", _deed("socket.socket(38, socket.SOCK_SEQPACKET)"), FILTER),
    Attack("an abstract socket", _deed("socket.socket(socket.AF_UNIX).connect('\\0x')"), FILTER),
    Attack("reading a file of the host", _deed("open('{folder}/there').read()"), FILES),
    Attack("writing a file of the host", _deed("open('{folder}/new', 'w').write('x')"), FILES),
    Attack("the password file", _deed("open('/etc/passwd').read()"), FILES),
    Attack("the process list", _deed("os.listdir('/proc')"), FILES),
    Attack("the trainer's environment", _deed("open('/proc/{pid}/environ').read()"), FILES),
    Attack("the trainer's memory", _deed("open('/proc/{pid}/mem', 'rb').read(1)"), FILES),
    Attack("the environment", _deed("os.environ['SELFPLAY_TEST_SECRET']"), "an empty environment"),
    Attack("Python's library", _deed("open(os.__file__, 'a').write('x')"), "read-only mounts"),
    Attack("Python's library removed", _deed("os.remove(os.__file__)"), "read-only mounts"),
    Attack("a file beside the library", _deed("os.mkdir('/usr/lib/x')"), "read-only mounts"),
    Attack("a file in the root", _deed("os.mkdir('/x')"), "read-only mounts"),
    Attack("the root made writable", _deed("assert not libc.mount(None, b'/', None, 4128, None)"), FILTER),
    Attack("a device file", _deed("os.mknod('d', 0o60000 | 0o666, 0x801)"), FILTER),
    Attack("a mount", _deed("assert not libc.mount(b'none', b'/work', b'tmpfs', 0, None)"), FILTER),
    Attack("an unmount", _deed("assert not libc.umount2(b'/usr/lib', 2)"), FILTER),
    Attack("another root", _deed("os.chroot('.')"), FILTER),
    Attack("the old root", _deed("os.chdir('/..')", "assert os.listdir('/') != os.listdir('.')"), FILES),
    Attack("a handle of a file", _deed("assert libc.syscall(303, -100, b'/', 0, 0, 0) != -1"), FILTER),
    Attack("a namespace of its own", _deed("assert not libc.unshare(0x10000000)"), FILTER),
    Attack("another namespace", _deed("assert not libc.setns(0, 0)"), FILTER),
    Attack("becoming root", _deed("assert not libc.setuid(0)"), FILTER),
    Attack("a capability", _deed("assert not libc.syscall(126, 0, 0)"), FILTER),
    Attack("a shell", _deed("os.execv('/bin/sh', ['sh'])"), FILTER),
    Attack("Python itself", _deed("os.execv(sys.executable, ['python', '-c', ''])", head="import os, sys\n"), FILTER),
    Attack("a setuid program", _deed("assert not os.system('su -c id')"), FILTER),
    Attack("a subprocess", _deed("subprocess.run(['ls'], check=True)", head="import subprocess\n"), FILTER),
    Attack("a program in memory", _deed("os.memfd_create('x')"), FILTER),
    Attack("another process", _deed("os.kill({victim}, 9)"), PROCESSES),
    Attack("every other process", _deed("os.kill(-1, 9)"), PROCESSES),
    Attack("the trainer killed", _deed("os.kill({pid}, 9)"), PROCESSES),
    Attack("its parent killed", _deed("os.kill(os.getppid(), 9)", "import time; time.sleep(0.2)", "os.kill(os.getppid(), 0)", "return 0"), PROCESSES),
    Attack("its parent stopped", _deed("os.kill(os.getppid(), 19)", "return 0"), PROCESSES),
    Attack("itself stopped", _deed("os.kill(os.getpid(), 19)"), CLOCK),
    Attack("its group killed", _deed("os.killpg(0, 9)"), PROCESSES),
    Attack("tracing its parent", _deed("assert not libc.ptrace(16, os.getppid(), 0, 0)"), FILTER),
    Attack("tracing itself", _deed("assert not libc.ptrace(0, 0, 0, 0)"), FILTER),
    Attack("memory of its parent", _deed("assert libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0) != -1"), FILTER),
    Attack("a descriptor of its parent", _deed("fd = os.pidfd_open(os.getppid())", "assert libc.syscall(438, fd, 0, 0) != -1"), FILTER),
    Attack("limits raised", _deed("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", head="import resource\n"), FILTER),
    Attack("limits of its parent", _deed("resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))", head="import os, resource\n"), FILTER),
    Attack("priority raised", _deed("os.setpriority(0, 0, -20)"), FILTER),
    Attack("the filter removed", _deed("assert not libc.prctl(22, 0, 0, 0, 0)"), FILTER),
    Attack("debuggable again", _deed("assert not libc.prctl(4, 1, 0, 0, 0)"), FILTER),
    Attack("a key of the keyring", _deed("assert libc.syscall(248, b'user', b'x', b'y', 1, -3) != -1"), FILTER),
    Attack("reading keyrings", _deed("assert libc.syscall(250, 11, -3, 0, 0) != -1"), FILTER),
    Attack("a program of the kernel", _deed("assert libc.syscall(321, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38)"), FILTER),
    Attack("an asynchronous ring", _deed("assert libc.syscall(425, 8, 0) != -1 or ctypes.get_errno() not in (1, 38)"), FILTER),
    Attack("performance counters", _deed("assert libc.syscall(298, 0, 0, -1, -1, 0) != -1 or ctypes.get_errno() not in (1, 38)"), FILTER),
    Attack("page faults in user space", _deed("assert libc.syscall(323, 1) != -1"), FILTER),
    Attack("another personality", _deed("assert libc.personality(0x0040000) != -1"), FILTER),
    Attack("the clock set", _deed("time.clock_settime(time.CLOCK_REALTIME, 0)", head="import time\n"), FILTER),
    Attack("the name of the host", _deed("socket.sethostname('x')"), FILTER),
    Attack("a reboot", _deed("assert not libc.reboot(0)"), FILTER),
    Attack("a kernel module", _deed("assert not libc.syscall(175, 0, 0, 0)"), FILTER),
    Attack("swap", _deed("assert not libc.swapoff(b'/x')"), FILTER),
    Attack("terminal input", _deed("import fcntl", "fcntl.ioctl(0, 0x5412, b'x')"), FILTER),
    Attack("a system call of 32 bits", _deed("p = mmap.mmap(-1, 4096, prot=7)", "p.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')", "a = ctypes.addressof(ctypes.c_char.from_buffer(p))", "assert ctypes.CFUNCTYPE(ctypes.c_int)(a)() > 0"), FILTER),
    Attack("a system call of x32", _deed("assert libc.syscall(0x40000000 + 39) != -1"), FILTER),
    Attack("System V memory", _deed("assert libc.shmget(0, ctypes.c_size_t(1 << 30), 0o1600) != -1"), FILTER),
    Attack("a file in memory", _deed("os.ftruncate(os.memfd_create('x'), 1 << 30)"), FILTER),
    Attack("secret memory", _deed("assert libc.syscall(447, 0) != -1"), FILTER),
    Attack("shared memory of POSIX", _deed("open('/dev/shm/x', 'wb').write(bytes(1 << 20))"), FILES),
    Attack("a message queue", _deed("assert libc.msgget(0, 0o1600) != -1"), FILTER),
    Attack("a queue of POSIX", _deed("assert libc.mq_open(b'/x', 66, 0o600, 0) != -1"), FILTER),
    Attack("semaphores", _deed("assert libc.semget(0, 1, 0o1600) != -1"), FILTER),
    Attack("ten gigabytes", _deed("bytearray(10 << 30)"), MEMORY),
    Attack("ten gigabytes mapped", _deed("mmap.mmap(-1, 10 << 30)"), MEMORY),
    Attack("ten gigabytes in pieces", _deed("x = [bytes(1 << 20) for _ in range(10 << 10)]"), MEMORY),
    Attack("a stack without end", _deed("sys.setrecursionlimit(1 << 30)", "g = lambda: [g()]", "g()", head="import sys\n"), MEMORY),
    Attack("locked memory", _deed("p = mmap.mmap(-1, 1 << 20)", "assert not libc.mlockall(3)"), FILTER),
    Attack("a child for each guess", GUESSES, FILTER),
    Attack("a second process", _deed("os.fork() or os._exit(0)"), FILTER),
    Attack("a second process of vfork", _deed("assert libc.syscall(58) > 0"), FILTER),
    Attack("a second process of clone", _deed("assert libc.syscall(56, 17, 0, 0, 0, 0) > 0"), FILTER),
    Attack("a second process of clone3", _deed("a = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)", "assert libc.syscall(435, a, 88) > 0"), FILTER),
    Attack("a process that shares memory", _deed("assert libc.syscall(56, 0x100 | 17, 0, 0, 0, 0) > 0"), FILTER),
    Attack("a hundred threads", _deed("import threading, time", "for _ in range(100): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()"), "number of threads"),
    Attack("a large file", _deed("open('big', 'wb').write(bytes(64 << 20))"), DISK),
    Attack("many files", _deed("for i in range(99999): open(str(i), 'w').close()"), DISK),
    Attack("many folders", _deed("for i in range(99999): os.mkdir(str(i))"), DISK),
    Attack("a large hole", _deed("os.truncate(os.open('x', 66), 1 << 40)"), DISK),
    Attack("files that are filled", _deed("for i in range(99999): open(str(i), 'wb').write(bytes(1 << 16))"), DISK),
    Attack("every descriptor", _deed("x = [open('/dev/null') for _ in range(99999)]"), "number of descriptors"),
    Attack("a core dump", _deed("os.abort()"), "no core dumps"),
    Attack("a null pointer", _deed("ctypes.string_at(0)"), "a process of its own"),
    Attack("an input that is changed", "import os\nos.lseek(0, 0, 2)\nwhile True: os.write(0, bytes(1 << 20))\n", "sealed input", True),
    Attack("an endless loop", "while True: pass\n", CLOCK),
    Attack("an endless call", "def f(n):\n    while True: pass\n", CLOCK),
    Attack("a sleep", "import time\ndef f(n): time.sleep(99999)\n", CLOCK),
    Attack("deaf to signals", "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: time.sleep(9)\n", CLOCK),
    Attack("an endless regular expression", "import re\ndef f(n): return re.match('(a+)+b', 'a' * 99)\n", CLOCK),
    Attack("an endless number", "def f(n): return 10 ** 10 ** 10\n", CLOCK),
    Attack("an endless iterator", "def f(n):\n    while True: yield n\n", CLOCK),
    Attack("an endless list", "def f(n):\n    x = []\n    x.append(x)\n    return x\n", JUDGE),
    Attack("colliding keys", "def f(n): return {i * (2**61 - 1) for i in range(30000)}\n", CLOCK),
    Attack("a compiler bomb", "x = " + "(" * 9999 + "\n", JUDGE),
    Attack("gigabytes of output", "while True: print('x' * (1 << 20))\n", OUTPUT, True),
    Attack("output that is no text", "import os\nwhile True: os.write(1, b'\\xff\\xfe' * 9999)\n", OUTPUT, True),
    Attack("errors without end", "import os\nfor _ in range(99): os.write(2, b'x' * 99999)\n", OUTPUT, True),
    Attack("closed descriptors", "import os\nos.closerange(0, 256)\n", JUDGE, True),
    Attack("closed pipes", "import os\nos.closerange(0, 256)\ndef f(n): return n + 41\n", JUDGE),
    Attack("a null character", "\0", JUDGE),
    Attack("half a character", "\ud800", JUDGE),
]  # fmt: skip
