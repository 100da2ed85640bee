"""Adapt how PyTorch's OpenMP threads wait for each other to the load of the machine.

A step has thousands of parallel operations, and each ends with its slowest thread. Spinning is fastest if every thread
has its own core. On shared cores it is slowest: a spinning thread occupies the core that the thread it waits for needs,
and a step takes 20 to 300 times as long. Sleeping immediately makes a step 60 % slower on an idle machine
(`experiments/bench/busy.py`).

So the waiting policy follows a measurement. Every `TICK`, we read how long the threads of this process were in the run
queue (/proc/self/task/<tid>/schedstat). If that exceeds `CROWDED` over the last quarter of a second, waits are made
short. They become long again once other processes leave enough free cores for all threads.

The *number* of threads never changes, since that would change the last digits of results: runs stay bitwise
reproducible under any load. What changes is libgomp's spin count. It cannot be set after the library is loaded, but
libgomp documents a rule that applies immediately: while there are more OpenMP threads than processors, a wait spins
100 times instead of 300,000 (its manual, GOMP_SPINCOUNT). `ShortWaits` keeps enough sleeping threads for that.

The load is not monitored without Linux and libgomp, with a single thread, or if the user set the waiting policy
(OMP_WAIT_POLICY, GOMP_SPINCOUNT).
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

TICK = 0.05  # seconds between measurements
LOOKS = 5  # measurements per decision, so that a short wait in the queue changes nothing
CROWDED = 0.5  # seconds in the run queue per second, over all threads: 0.0-0.2 when idle, 0.8-1.5 beside a busy loop
STOLEN = 0.3  # cores; tolerated steal time on a virtual machine
SPARE = 0.15  # cores; use by other processes that is ignored
CALM = 1.0  # seconds of low load before waits become long again ...
PATIENCE = 8.0  # ... doubled up to this whenever load returns within that time
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
CGROUPS = (  # files with the CPU quota and its period, in microseconds
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
_watch: Watch | None = None


def fit_threads() -> None:
    """Use one thread per available core, unless OMP_NUM_THREADS is set, and adapt waits to the load of the machine.

    Call it once per process, before the first computation; later calls have no effect.
    """
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
    """The number of cores available to this process: its CPU affinity, limited by its cgroup quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for paths in CGROUPS:
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or no quota ("max")
            quota, period = " ".join(Path(path).read_text("ascii") for path in paths).split()
            if int(quota) > 0:
                cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


class ShortWaits:
    """Keeps more sleeping OpenMP threads than there are processors, so that libgomp's waits are short.

    Args:
        library: the libgomp that PyTorch loaded.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._end: Event | None = None
        self._holder: Thread | None = None

    @property
    def on(self) -> bool:
        return self._end is not None

    def start(self) -> None:
        """Create the threads; they end with the thread that holds them."""
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
        nothing = ctypes.cast(self._library.omp_get_thread_num, ctypes.c_void_p)  # a C function without side effects
        run = self._library.GOMP_parallel
        run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        run(nothing, None, (os.cpu_count() or 1) + 1, 0)
        ready.set()
        end.wait()


class Watch(Thread):
    """Measures the load every `TICK` and switches between short and long waits; see the module.

    Args:
        threads: number of computing threads.
        waits: the switch.
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
        """Return once threads have been in the run queue for too long, or the host has stolen too much time."""
        load, waited, before = Load(), deque([0.0] * LOOKS, LOOKS), _queued() or {}
        while True:
            time.sleep(TICK)
            after = _queued() or {}
            waited.append(sum(ns - before.get(thread, ns) for thread, ns in after.items()) / 1e9)
            before = after
            if sum(waited) > CROWDED * LOOKS * TICK or (load.seconds > CALM and load.look().stolen > STOLEN):
                return

    def until_calm(self, patience: float) -> None:
        """Return once every thread could have had its own core for `patience` seconds."""
        load, calm = Load(), 0.0
        while calm < patience:
            time.sleep(CALM / 2)
            seconds, used = load.seconds, load.look().others
            calm = calm + seconds if used <= load.cores - self.threads + SPARE else 0.0


@dataclass(frozen=True)
class Used:
    """Cores in use over an interval.

    Attributes:
        others: by other processes, including `stolen`.
        stolen: by the host of a virtual machine (steal time).
    """

    others: float
    stolen: float


class Load:
    """The use of the cores available to this process since the last measurement."""

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
        """The current time, and the busy, stolen and own CPU time so far; all in seconds."""
        tick, busy, stolen = os.sysconf("SC_CLK_TCK"), 0, 0
        for line in Path("/proc/stat").read_text("ascii").splitlines():
            name, *fields = line.split()
            if name in self.names:
                user, nice, system, _, _, irq, soft, steal = map(int, fields[:8])
                busy += user + nice + system + irq + soft + steal
                stolen += steal
        return time.monotonic(), busy / tick, stolen / tick, time.process_time()


def _queued() -> dict[int, int] | None:
    """Nanoseconds that each thread of this process has waited in the run queue; None if the kernel does not say."""
    found: dict[int, int] = {}
    try:
        threads = os.listdir("/proc/self/task")
        for thread in threads:
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                found[int(thread)] = int(Path(f"/proc/self/task/{thread}/schedstat").read_text("ascii").split()[1])
        Path("/proc/stat").read_bytes()
    except (OSError, IndexError, ValueError):
        return None
    return found or None


def _libgomp() -> ctypes.CDLL | None:
    """GNU's OpenMP library, if PyTorch uses it."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "libgomp" in line}
    ours = sorted(loaded, key=lambda path: "torch" not in path)
    return ctypes.CDLL(ours[0]) if ours else None
