"""A machine: what it is, and what it can do at most, by measured rates of matrix products and of copies."""

import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from stage import synchronise

HERE = Path(__file__).parent
BANDWIDTH = 100_000_000  # floats that are copied
SQUARE = {"cpu": 2048, "cuda": 8192}  # side of the matrices: an accelerator is not busy with small ones


def best(call: Any, device: str, tries: int = 15, limit: float = 10.0) -> float:
    """The least seconds of a call, of so many tries or as many as there is time for."""
    taken: list[float] = []
    while len(taken) < tries and sum(taken) < limit:
        start = time.perf_counter()
        call()
        synchronise(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def ceilings(device: str, quick: bool = False) -> dict[str, float]:
    """Matrix products in GFLOP/s and copies in GB/s (read and written); `quick`: of small operands, to try it out."""
    found, square = {}, 256 if quick else SQUARE[device.split(":")[0]]  # bfloat16 in software is a hundred times slower
    size = BANDWIDTH // 100 if quick else BANDWIDTH
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(square, square, device=device).to(dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2e-9 * square**3 / best(lambda a=a, b=b: a @ b, device)
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    found["copy"] = 8e-9 * size / best(lambda: target.copy_(source), device)
    return found


def facts(device: str) -> dict[str, Any]:
    """Where, when and of which commit something was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", *sys.argv]),
        **{package: version(package) for package in ("torch", "transformers", "trl") if find_spec(package)},
    }


def name_of(device: str) -> str:
    """The name of a device's hardware."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return _processor() if device == "cpu" else device


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def slug(device: str) -> str:
    """What the files of an accelerator have in their names."""
    return "" if device == "cpu" else "-" + name_of(device).lower().replace(" ", "-")
