"""Calls whose cost an untrusted text decides: each ends within its limits, and harms no later one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfplay.core import SelfplayError
from selfplay.sandbox.bounded import Bounded, Exceeded
from selfplay.tasks.match import mathematics, number

FUNCTIONS = """
import os, resource
stored = []
def prepare(word): stored.append(word)
def stored_words(): return list(stored)
def power(exponent): return len(str(10 ** exponent)) if exponent < 4000 else (10 ** exponent) % 7
def spin():
    while True: pass
def fill(): return len(bytearray(1 << 40))
def nest(n): return nest(n + 1)
def crash():
    import ctypes; ctypes.string_at(0)
def wrong(): raise KeyError("what")
def leave(): os._exit(3)
def loud(): print("1"); return 2
def me(): return os.getpid()
"""


@pytest.fixture
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bounded]:
    (tmp_path / "functions_of_a_test.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    made = Bounded("functions_of_a_test", seconds=0.5, megabytes=256)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("function", "args"), [("power", (999**3,)), ("spin", ()), ("fill", ()), ("nest", (0,)), ("crash", ())]
)
def test_what_is_too_much_is_exceeded_and_the_next_call_works(
    bounded: Bounded, function: str, args: tuple[int]
) -> None:
    bounded.prepare("prepare", "kept")
    before = os.times()
    with pytest.raises(Exceeded):
        bounded.call(function, *args)
    assert bounded.call("power", 3) == 4 and bounded.call("stored_words") == ["kept"]
    bounded.close()
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 2  # seconds of the processor, the start of the worker included


def test_what_a_function_raises_is_an_error(bounded: Bounded) -> None:
    for function, words in (("wrong", "KeyError: 'what'"), ("leave", "ended with status 768")):
        with pytest.raises(SelfplayError, match=words):
            bounded.call(function)
    assert bounded.call("loud") == 2  # what it prints is no answer
    with pytest.raises(SelfplayError, match="see its message above"):
        bounded.prepare("wrong")
    assert bounded.call("power", 2) == 3


def test_each_call_has_a_process_of_its_own(bounded: Bounded) -> None:
    assert len({bounded.call("me") for _ in range(3)}) == 3
    bounded.call("prepare", "lost")
    assert bounded.call("stored_words") == []


def test_the_worker_ends_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "functions_of_a_test.py").write_text(FUNCTIONS)
    script = (
        "from selfplay.sandbox.bounded import Bounded\n"
        "b = Bounded('functions_of_a_test', seconds=600.0); b.call('me')\n"
        "print(b._worker.pid, flush=True); b.call('spin')"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) as owner:
        assert owner.stdout is not None
        worker = Path(f"/proc/{int(owner.stdout.readline())}")
        while not (children := (worker / "task" / worker.name / "children").read_text().split()):
            time.sleep(0.01)
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in (worker.name, *children)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "reply",
    [
        "$10^{999^{999}}$",
        "$99999999!$",
        "$" + "(" * 990 + "1" + ")" * 990 + "$",
        "9" * 1999,
        "\\frac{1}{" * 150,
        "\\boxed{9^{9^{9}}}",
        "$\\sum_{i=1}^{99999999} i^{77}$",
        "$\\binom{9999999999}{4999999999}$",
        "\\boxed{" + ",".join(map(str, range(400))) + "}",
    ],
    ids=range(9),
)
def test_mathematics_of_any_reply_ends(reply: str) -> None:
    assert mathematics(reply, "42") == 0.0
    assert mathematics("so \\boxed{42}", "42") == 1.0


def test_numbers_of_any_length() -> None:
    begun = time.process_time()
    for reply in ("9" * 10**5, "1," * 10**5, "-" * 10**5, "." * 10**5, "1." * 10**5, "9" * 10**5 + "." + "9" * 10**5):
        assert number(reply, "42") == 0.0
    assert number("7" * 5000, "7" * 5000) == 1.0
    assert time.process_time() - begun < 10
