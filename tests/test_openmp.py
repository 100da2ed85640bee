"""How many threads a process computes with, and how they wait for one another."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from selfplay import openmp
from selfplay.openmp import Used, Watch, own_cores

PROLOGUE = """
import time
import torch
from selfplay import openmp
x = torch.randn(256, 256)

def waited():  # seconds of processor time that threads spend behind 40 products, while nothing is to be done
    torch.mm(x, x)
    start = time.process_time()
    for _ in range(40):
        torch.mm(x, x)
        time.sleep(0.01)
    return time.process_time() - start
"""


def told(script: str, **environment: str) -> list[str]:
    """What a script prints in a process of its own, with nothing but the given environment about threads."""
    names = ("OMP_NUM_THREADS", *openmp.POLICIES)
    kept = {name: value for name, value in os.environ.items() if name not in names}
    code = PROLOGUE + dedent(script)
    done = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


needs_libgomp = pytest.mark.skipif(openmp._libgomp() is None, reason="PyTorch computes without libgomp here")


@needs_libgomp
def test_waits_are_short_while_they_are_told_to_be_and_long_again_afterwards() -> None:
    script = """
        waits = openmp.ShortWaits(openmp._libgomp())
        first = waited()
        waits.start()
        short = waited()
        waits.stop()
        print(first, short, waited())
    """
    first, short, again = map(float, told(script, OMP_NUM_THREADS="2"))
    assert short < first / 2 and short < again / 2


@needs_libgomp
def test_results_do_not_depend_on_how_threads_wait() -> None:
    script = """
        waits = openmp.ShortWaits(openmp._libgomp())
        y = torch.randn(1 << 16)
        one = (x @ x, y.sum(), x.softmax(-1), torch.get_num_threads())
        waits.start()
        other = (x @ x, y.sum(), x.softmax(-1), torch.get_num_threads())
        print(all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other)))
    """
    assert told(script, OMP_NUM_THREADS="2") == ["True"]


@needs_libgomp
@pytest.mark.parametrize(
    ("environment", "watched"),
    [
        ({"OMP_NUM_THREADS": "2"}, True),
        ({"OMP_NUM_THREADS": "1"}, False),
        ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}, False),
        ({"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"}, False),
    ],
)
def test_what_the_user_chose_stays(environment: dict[str, str], watched: bool) -> None:
    script = "openmp.fit_threads(); openmp.fit_threads(); print(openmp._watch is not None, torch.get_num_threads())"
    assert told(script, **environment) == [str(watched), environment["OMP_NUM_THREADS"]]


@needs_libgomp
def test_a_process_beside_busy_ones_waits_shortly() -> None:
    script = """
        import os, subprocess, sys
        openmp.fit_threads()
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
        end = time.monotonic() + 60
        while time.monotonic() < end and not openmp._watch.waits.on:
            torch.mm(x, x)
        print(openmp._watch.waits.on)
        for process in busy:
            process.kill()
    """
    assert told(script, OMP_NUM_THREADS="2") == ["True"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_a_process_has_the_threads_of_its_own_cores() -> None:
    script = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        openmp.fit_threads()
        print(openmp.own_cores(), torch.get_num_threads())
    """
    assert told(script) == ["1", "1"]


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 64), ("150000 100000", 2), ("20000 100000", 1), ("-1 100000", 64)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_of_a_control_group_counts(
    quota: str, cores: int, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [quota] if version == 2 else quota.split()
    for number, part in enumerate(parts):
        (tmp_path / str(number)).write_text(part + "\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(openmp, "CGROUPS", (("none",), tuple(str(tmp_path / str(n)) for n in range(len(parts)))))
    assert own_cores() == cores


class FakeLoad:
    """Two cores, of which others use what it is told, look by look."""

    cores = 2
    seconds = 0.5

    def __init__(self, others: Iterator[float]) -> None:
        self.others = others

    def look(self) -> Used:
        return Used(next(self.others), 0.0)


class NoWaits(openmp.ShortWaits):
    def __init__(self) -> None:
        pass


def test_waits_become_long_again_only_after_a_calm_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "CALM", 0.002)
    others = iter([1.0, 0.1, 0.9, 0.0, 0.1, 0.14, 0.0, 9.9])
    monkeypatch.setattr(openmp, "Load", lambda: FakeLoad(others))
    Watch(2, NoWaits()).until_calm(patience=2.0)
    assert list(others) == [9.9]  # four calm looks of half a second, one after the other


def test_one_thread_of_two_cores_may_have_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "CALM", 0.002)
    monkeypatch.setattr(openmp, "Load", lambda: FakeLoad(iter([1.0])))
    Watch(1, NoWaits()).until_calm(patience=0.5)


@pytest.mark.parametrize(("shares", "looks"), [([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1] + [1.0] * 9, 9), ([2.0] * 9, 2)])
def test_threads_that_stand_in_the_queue_for_long_are_noticed(
    shares: list[float], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmp, "TICK", 0.01)
    monkeypatch.setattr(openmp, "LOOKS", 5)
    left, total = iter(shares), [10**15]  # a thread with a long past, beside one that has just begun

    def queued() -> dict[int, int]:
        total.append(total[-1] + int(next(left) * openmp.TICK * 1e9))
        return {1: total[-1]} if len(total) < 3 else {1: total[-1], 2: 10**12}

    monkeypatch.setattr(openmp, "_queued", queued)
    Watch(2, NoWaits()).until_crowded()
    assert len(total) - 2 == looks  # the first look is what the others are compared with


def test_company_that_comes_back_soon_is_met_with_more_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Stop(Exception):
        pass

    class Scripted(Watch):
        def until_crowded(self) -> None:
            time.sleep(0.0)

        def until_calm(self, patience: float) -> None:
            waited.append(patience)
            if len(waited) == 7:
                raise Stop

    class Nothing(NoWaits):
        def start(self) -> None:
            pass

        def stop(self) -> None:
            pass

    with pytest.raises(Stop):
        Scripted(2, Nothing()).run()
    assert waited == [2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]
