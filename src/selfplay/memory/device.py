"""How much memory the device of a run has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from selfplay.core import SelfplayError

MEMINFO = "/proc/meminfo"
CGROUPS = (  # version 2 and 1: limit and use of a control group, and the file caches in it that can be dropped
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available(device: str) -> int:
    """Bytes that are free on a device now; on a processor, at most what its control group leaves.

    Raises:
        SelfplayError: there is no such device here, or its memory is unknown.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return processor_memory()
    if kind != "cuda" or not torch.cuda.is_available():
        raise SelfplayError(f"there is no device '{device}' here; say how much memory it has with device.memory=<GiB>")
    return torch.cuda.mem_get_info(device)[0]


def processor_memory(meminfo: str = MEMINFO, cgroups: Sequence[tuple[str, str, str]] = CGROUPS) -> int:
    """Bytes that the system can give to new processes, at most what the control group's limit leaves.

    Raises:
        SelfplayError: the system does not say.
    """
    found = []
    with suppress(OSError):
        if line := re.search(r"^MemAvailable:\s+(\d+) kB", Path(meminfo).read_text("ascii"), re.MULTILINE):
            found.append(int(line[1]) * 1024)
    for limit, used, parts in cgroups:
        with suppress(OSError, ValueError):  # no such file, or no limit ("max")
            left = int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii"))
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", Path(parts).read_text("ascii"), re.MULTILINE)
            found.append(left + (int(cached[1]) if cached else 0))
    if not found:
        raise SelfplayError("the system does not say how much memory is available; give device.memory=<GiB>")
    return max(0, min(found))
