"""How many threads PyTorch computes with, and how they wait for one another.

A parallel operation ends when its last thread has ended, and a step has thousands of them. Threads that spin while they
wait are fastest where each has a core of its own. Where a core is shared they are slowest: a waiting thread keeps its
core busy while the thread that it waits for stands in the queue for the other one, and a step takes 20 to 300 times as
long. Threads that sleep at once cost a step 60 % on a quiet machine (`experiments/bench/busy.py`).

So waiting follows what is measured. Every `TICK`, the time that the threads of this process stood in the run queue is
read (/proc/self/task/<tid>/schedstat); when it exceeds `CROWDED` of the last quarter of a second, waits become short.
They become long again when the cores that other processes leave free suffice for all threads.

The *number* of threads never changes, because results would change with it in their last digits: a run stays bit for
bit reproducible under any load. What changes is libgomp's spin count. It cannot be set once the library is loaded, but
libgomp documents a rule that takes effect at once: while there are more OpenMP threads than processors, a wait spins
100 times instead of 300,000 (its manual, GOMP_SPINCOUNT). `ShortWaits` keeps that many threads asleep.

Nothing is watched where it cannot be (no Linux, no libgomp), where there is one thread, or where the user chose how
threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT).
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

TICK = 0.05  # seconds between two looks
LOOKS = 5  # that are taken together: a moment in the queue is no reason to change anything
CROWDED = 0.5  # seconds in the run queue, of all threads, per second: 0.0 to 0.2 when quiet, 0.8 to 1.5 beside a loop
STOLEN = 0.3  # of a core, which the host of a virtual machine may keep from it
SPARE = 0.15  # of a core, which others may use without being company
CALM = 1.0  # seconds without company before waits become long again ...
PATIENCE = 8.0  # ... doubled up to this, each time company comes back within as long
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
CGROUPS = (  # files that hold a quota and its period, in microseconds
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
_watch: Watch | None = None


def fit_threads() -> None:
    """Compute with as many threads as this process has cores, unless OMP_NUM_THREADS says otherwise, and let waits
    follow the load of the machine. Call it once a process, before the first computation; later calls change nothing."""
    global _watch
    if _watch is not None:
        return
    import torch

    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), own_cores()))
    library = _libgomp()
    chosen = any(os.environ.get(name) for name in POLICIES)
    if library is None or chosen or torch.get_num_threads() == 1 or _queued() is None:
        return
    _watch = Watch(torch.get_num_threads(), ShortWaits(library))
    _watch.start()


def own_cores() -> int:
    """The processors that this process may use: its affinity, and the quota of its control group, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for paths in CGROUPS:
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no quota ("max")
            quota, period = " ".join(Path(path).read_text("ascii") for path in paths).split()
            if int(quota) > 0:
                cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


class ShortWaits:
    """Keeps more OpenMP threads than there are processors, all asleep, so that libgomp's waits are short.

    Args:
        library: libgomp, as PyTorch has loaded it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._end: Event | None = None
        self._holder: Thread | None = None

    @property
    def on(self) -> bool:
        return self._end is not None

    def start(self) -> None:
        """Make the threads; they end with the thread that holds them."""
        if self._end is not None:
            return
        ready, self._end = Event(), Event()
        self._holder = Thread(target=self._hold, args=(ready, self._end), name="short-waits", daemon=True)
        self._holder.start()
        ready.wait()

    def stop(self) -> None:
        if self._end is not None and self._holder is not None:
            self._end.set()
            self._holder.join()
            self._end = self._holder = None

    def _hold(self, ready: Event, end: Event) -> None:
        nothing = ctypes.cast(self._library.omp_get_thread_num, ctypes.c_void_p)  # a C function without an effect
        run = self._library.GOMP_parallel
        run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        run(nothing, None, (os.cpu_count() or 1) + 1, 0)
        ready.set()
        end.wait()


class Watch(Thread):
    """Looks at the load every `TICK` and tells threads how to wait; see the module.

    Args:
        threads: that compute.
        waits: what is switched.
    """

    def __init__(self, threads: int, waits: ShortWaits) -> None:
        super().__init__(name="load-watch", daemon=True)
        self.threads, self.waits = threads, waits

    def run(self) -> None:
        patience = CALM
        while True:
            began = time.monotonic()
            self.until_crowded()
            soon = time.monotonic() - began < patience
            patience = min(2 * patience, PATIENCE) if soon else CALM
            self.waits.start()
            self.until_calm(patience)
            self.waits.stop()

    def until_crowded(self) -> None:
        """Return when this process's threads stood in the queue for too long, or the host took the cores away."""
        load, waited, before = Load(), deque([0.0] * LOOKS, LOOKS), _queued() or {}
        while True:
            time.sleep(TICK)
            after = _queued() or {}
            waited.append(sum(ns - before.get(thread, ns) for thread, ns in after.items()) / 1e9)
            before = after
            if sum(waited) > CROWDED * LOOKS * TICK or (load.seconds > CALM and load.look().stolen > STOLEN):
                return

    def until_calm(self, patience: float) -> None:
        """Return when for `patience` seconds all threads could have had a core of their own."""
        load, calm = Load(), 0.0
        while calm < patience:
            time.sleep(CALM / 2)
            seconds, used = load.seconds, load.look().others
            calm = calm + seconds if used <= load.cores - self.threads + SPARE else 0.0


@dataclass(frozen=True)
class Used:
    """Processors in use over a while, in cores: by others than this process (`stolen` included), and by the host of a
    virtual machine that kept them from it."""

    others: float
    stolen: float


class Load:
    """What the processors that this process may use did since the last look."""

    def __init__(self) -> None:
        self.names = {f"cpu{n}" for n in os.sched_getaffinity(0)}
        self.cores = len(self.names)
        self._last = self._read()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._last[0]

    def look(self) -> Used:
        then, self._last = self._last, self._read()
        seconds, busy, stolen, own = (b - a for a, b in zip(then, self._last, strict=True))
        return Used((busy - own) / seconds, stolen / seconds)

    def _read(self) -> tuple[float, float, float, float]:
        """The time, and for how long processors were busy, were stolen, and were this process's; all in seconds."""
        tick, busy, stolen = os.sysconf("SC_CLK_TCK"), 0, 0
        for line in Path("/proc/stat").read_text("ascii").splitlines():
            name, *fields = line.split()
            if name in self.names:
                user, nice, system, _, _, irq, soft, steal = map(int, fields[:8])
                busy += user + nice + system + irq + soft + steal
                stolen += steal
        return time.monotonic(), busy / tick, stolen / tick, time.process_time()


def _queued() -> dict[int, int] | None:
    """Nanoseconds that each thread of this process was ready to run and did not; None where the kernel does not say."""
    found: dict[int, int] = {}
    try:
        threads = os.listdir("/proc/self/task")
        for thread in threads:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[int(thread)] = int(Path(f"/proc/self/task/{thread}/schedstat").read_text("ascii").split()[1])
        Path("/proc/stat").read_bytes()
    except (OSError, IndexError, ValueError):
        return None
    return found or None


def _libgomp() -> ctypes.CDLL | None:
    """GNU's OpenMP library, where it is the one that PyTorch computes with."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "libgomp" in line}
    ours = sorted(loaded, key=lambda path: "torch" not in path)
    return ctypes.CDLL(ours[0]) if ours else None
