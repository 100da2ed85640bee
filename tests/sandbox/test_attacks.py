"""Attacks on the referee of code: none passes, none harms the machine, and the referee works afterwards."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Thread

import pytest
from attacks import DEEDS, FORGERIES, TESTS, Attack
from confined import Host, as_ordinary_user, descendants, fares, isolations, why_no_ordinary_user

from selfplay.sandbox.sandbox import Sandbox

LIMITS = Sandbox(seconds=2.0, megabytes=256, file_megabytes=16)
ISOLATIONS = isolations(replace(LIMITS, seconds=10.0))
ATTACKS = [a for a in FORGERIES + DEEDS if "syscall(" not in a.code or platform.machine() == "x86_64"]  # by number
pytestmark = pytest.mark.skipif(not ISOLATIONS, reason="this kernel or container has no user namespaces for us")
BOTH = ("bubblewrap", "namespaces")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


def there(isolation: str) -> Sandbox:
    if isolation not in ISOLATIONS:
        pytest.skip(f"isolation={isolation} does not work here")
    return replace(LIMITS, isolation=isolation)


def test_there_are_enough_and_each_names_what_stops_it() -> None:
    assert len(FORGERIES + DEEDS) >= 80 and len({a.name for a in FORGERIES + DEEDS}) == len(FORGERIES + DEEDS)
    assert all(a.stopped_by for a in FORGERIES + DEEDS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_an_attack(attack: Attack, host: Host) -> None:
    """By whoever runs the tests."""
    assert not any(host.fare(attack, there(ISOLATIONS[0]))), attack.stopped_by
    assert host.harms() == []


@pytest.mark.slow
def test_the_same_under_the_other_isolation() -> None:
    for isolation in ISOLATIONS[1:]:
        check(fares(ATTACKS, replace(there(isolation), seconds=1.0)))


def check(fared: dict[str, object]) -> None:
    """None passes anything."""
    assert fared.pop("harms") == [] and fared.pop("works") == 1.0
    assert len(fared) == len(ATTACKS)
    assert {name: passed for name, passed in fared.items() if any(passed)} == {}  # type: ignore[call-overload]


@cache
def as_nobody(isolation: str) -> dict[str, object]:
    script = (
        "import json; from attacks import DEEDS, FORGERIES; from confined import fares, isolations\n"
        "from selfplay.sandbox.sandbox import Sandbox\n"
        f"sandbox = Sandbox(seconds=1.0, megabytes=256, file_megabytes=16, isolation={isolation!r})\n"
        f"there = {isolation!r} in isolations(Sandbox(seconds=10.0, megabytes=256, file_megabytes=16))\n"
        f"names = {[a.name for a in ATTACKS]}\n"
        "attacks = [a for a in FORGERIES + DEEDS if a.name in names]\n"
        "print(json.dumps({'there': there, **(fares(attacks, sandbox) if there else {})}))"
    )
    done = as_ordinary_user(script)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("isolation", BOTH)
def test_the_same_as_an_ordinary_user(isolation: str) -> None:
    if reason := why_no_ordinary_user():
        pytest.skip(reason)
    fared = as_nobody(isolation)
    if not fared.pop("there"):
        pytest.skip(f"isolation={isolation} does not work here for an ordinary user")
    check(fared)


def test_the_attacks_would_work_elsewhere(host: Host) -> None:
    """Without isolation some deeds are done: the list is no list of things that never work."""
    free = replace(LIMITS, isolation="none")
    reading = next(a for a in DEEDS if a.name == "reading a file of the host")
    environment = next(a for a in DEEDS if a.name == "the trainer's environment")
    assert all(host.fare(reading, free)) and all(host.fare(environment, free))


# --- memory, and what is left -----------------------------------------------------------------------------------------

HOG = """
import os, threading, mmap
kept = []
def eat():
    while True:
        try: kept.append(bytearray(1 << 20))
        except MemoryError: break
block, i = bytes(1 << 20), 0
while True:
    try: open(str(i), 'wb').write(block)
    except OSError: break
    i += 1
for _ in range(3):
    try: threading.Thread(target=eat).start()
    except (RuntimeError, MemoryError): break  # no memory is left for a stack
eat()
while True: pass
"""


def pss(pid: int) -> int:
    """The memory of a process in MiB, what it shares counted by its share; 0 while it is still this one, about to start
    another program in its place."""
    try:  # the name first: between the two readings a process may become another, and never the same again
        if Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes():
            return 0
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0) >> 10


@pytest.mark.parametrize("isolation", BOTH)
def test_the_memory_of_all_processes_together_is_bounded(isolation: str) -> None:
    sandbox = there(isolation)
    before, most = set(descendants(os.getpid())), 0
    running = Thread(target=sandbox.run, args=(HOG, TESTS))
    running.start()
    while running.is_alive():
        most = max(most, sum(pss(pid) for pid in descendants(os.getpid()) if pid not in before))
        time.sleep(0.05)
    assert 100 < most < sandbox.megabytes + sandbox.file_megabytes + 128  # MiB; the processes beside it, and the judge


@pytest.mark.parametrize("isolation", [*BOTH, "none"])
def test_nothing_is_left_when_the_trainer_is_killed(isolation: str, host: Host) -> None:
    if isolation != "none":
        there(isolation)
    script = (
        "from selfplay.sandbox.sandbox import Sandbox; print('ready', flush=True)\n"
        f"Sandbox(600.0, 256, 16, isolation={isolation!r}).run('while True: pass', ('assert f(1) == 1',))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline()
        filtered = 0 if isolation == "none" else 2  # the judge and the code: they have given up all that they had
        end = time.monotonic() + 60
        while len(running := descendants(trainer.pid)) < 3 or sum(map(_is_filtered, running)) < filtered:
            assert time.monotonic() < end, running
            time.sleep(0.02)
        trainer.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while left := [pid for pid in running if _state(pid) not in ("", "Z")]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


def _is_filtered(pid: int) -> bool:
    try:
        return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
