"""The memory of this machine."""

from pathlib import Path

import pytest

from selfplay.core import SelfplayError
from selfplay.memory.device import available, processor_memory

LINES = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n"


def group(folder: Path, limit: str, used: int, cached: int) -> tuple[str, str, str]:
    for name, text in (("limit", limit), ("used", str(used)), ("stat", f"anon 5\ninactive_file {cached}\n")):
        (folder / name).write_text(text + "\n")
    return str(folder / "limit"), str(folder / "used"), str(folder / "stat")


@pytest.mark.parametrize(
    ("limit", "left"),
    [("max", 20_000_000 * 1024), (str(10**10), 10**10 - 4 * 10**9 + 10**9), (str(10**9), 0), (str(2**63 - 4096), None)],
)
def test_a_control_group_limits_a_processor(limit: str, left: int | None, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(LINES)
    found = processor_memory(str(meminfo), [group(tmp_path, limit, 4 * 10**9, 10**9)])
    assert found == (20_000_000 * 1024 if left is None else left)


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=r"does not say how much memory is available; give device\.memory"):
        processor_memory(str(tmp_path / "none"), [])


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(SelfplayError, match=r"there is no device 'mps' here; .* device.memory=<GiB>"):
        available("mps")
    assert available("cpu") > 2**20
