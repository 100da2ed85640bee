"""Code that a model wrote is run: what passes, and how little it can do beside that."""

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import cli
import pytest
from conftest import config

from selfplay.build import make
from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.metrics import of_referees
from selfplay.referees.code import Code
from selfplay.referees.sandbox import CELL, Outcome, Sandbox, code_in, libraries
from selfplay.referees.verifier import Verifier
from selfplay.tasks.programs import Programs
from selfplay.tasks.tiny_world import TinyWorld

SECRET = "the-secret-of-the-trainer-0123456789"
os.environ["SELFPLAY_TEST_SECRET"] = SECRET

LIMITS = Sandbox(seconds=10.0, megabytes=512, file_megabytes=16, processes=8, isolated=True)


def walls_stand() -> bool:
    try:
        return LIMITS.run("", ("assert True",)).passed == (True,)
    except SelfplayError:
        return False


shut_in = pytest.mark.skipif(not walls_stand(), reason="this kernel or container has no user namespaces for us")
open_air = Sandbox(seconds=10.0, megabytes=512, file_megabytes=16, processes=8, isolated=False)
BOTH = pytest.mark.parametrize(
    "sandbox",
    [pytest.param(LIMITS, marks=shut_in), pytest.param(open_air, marks=pytest.mark.slow)],
    ids=["isolated", "limits"],
)

# --- what passes ------------------------------------------------------------------------------------------------------

ADD = "def add(a, b):\n    return a + b"
SUMS = ("assert add(1, 2) == 3", "assert add(2, 2) == 5", "assert add('a', 'b') == 'ab'")


@BOTH
@pytest.mark.parametrize(
    ("code", "tests", "passed"),
    [
        (ADD, SUMS, (True, False, True)),
        ("def add(a, b):\n    raise ValueError", SUMS, (False,) * 3),
        ("def add(a, b):\n    raise SystemExit(0)", SUMS, (False,) * 3),
        (ADD + "\nraise ValueError", SUMS, (False,) * 3),
        (ADD + "\nif __name__ == '__main__':\n    raise ValueError", SUMS, (True, False, True)),
        ("not python", SUMS, (False,) * 3),
        ("", SUMS, (False,) * 3),
        ("\x00\ud800", SUMS, (False,) * 3),
        ("", ("assert x == 1", "x = 1", "assert x == 1"), (False, True, False)),  # a test leaves nothing to the next
        ("import json, ssl, sqlite3, random, decimal, datetime, re", ("assert ssl and json.loads('1') == 1",), (True,)),
        ("print('loud' * 100_000)\ndef f(): return print('x') or 1", ("assert f() == 1",), (True,)),
        (
            "print(int(input()) + int(input()))",
            (("1\n2\n", "3"), ("5\n5", "10  \n\n"), ("1\n1", "3")),
            (True, True, False),
        ),
        ("import sys; print(sys.stdin.read(), end='')", (("é\n x", "é\n x"), ("", "")), (True, True)),
        ("print(1)\nexit()", (("", "1"),), (True,)),
        ("print(1)\nraise ValueError", (("", "1"),), (True,)),
        ("print('1' * 3_000_000)", (("", "1"),), (False,)),
        (ADD + "\nprint(7)", ("assert add(1, 1) == 2", ("", "7"), ("", "8")), (True, True, False)),
    ],
    ids=range(17),
)
def test_what_passes(sandbox: Sandbox, code: str, tests: tuple[str, ...], passed: tuple[bool, ...]) -> None:
    assert sandbox.run(code, tests).passed == passed


@BOTH
@pytest.mark.parametrize(
    "cheat",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "raise KeyboardInterrupt",
        "print('0'); print('passed 0')",
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'0\\n 0\\n{"passed": [true], "late": false}\\n\')\n'
        "    except OSError: pass",
        "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass",
        "import builtins; builtins.AssertionError = ValueError; f = lambda: 2",
        "import builtins; builtins.exec = builtins.compile = lambda *a, **k: None; f = lambda: 2",
        "import builtins; builtins.BaseException = builtins.Exception = ValueError; f = lambda: 2",
        "import ctypes; ctypes.string_at(0)",
        "def f():\n    import os; os._exit(0)",
        "import atexit, sys; atexit.register(print, 1)",
    ],
    ids=range(13),
)
def test_who_leaves_before_the_assertion_has_not_passed_it(sandbox: Sandbox, cheat: str) -> None:
    assert sandbox.run(cheat, ("assert f() == 1",)).passed == (False,)


@BOTH
def test_what_passed_before_the_time_ran_out_has_passed(sandbox: Sandbox) -> None:
    quick = Sandbox(1.0, 512, 16, 8, sandbox.isolated)
    code = "def f(n):\n    while n > 1: pass\n    return n"
    assert quick.run(code, ("assert f(1) == 1", "assert f(2) == 2", "assert f(0) == 0")) == Outcome(
        (True, False, False), late=True
    )
    assert quick.run("while True: pass", (("", ""), ("", ""))) == Outcome((False, False), late=True)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\ndone", "x = 1\n"),
        ("```python\nx = 1\n```\nor\n```py\nx = 2\n```\n```\nout\n```", "x = 2\n"),
        ("```\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("```Python title\nx = '```'\n  ```\n", "x = '```'\n"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("", ""),
    ],
)
def test_the_code_in_a_reply(reply: str, code: str) -> None:
    assert code_in(reply) == code


# --- what it cannot do ------------------------------------------------------------------------------------------------


def done(code: str, check: str = "assert f() is None", sandbox: Sandbox = LIMITS) -> Outcome:
    """How it fares: `f` does the deed and says what came of it."""
    return sandbox.run(code, (check,))


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of the loopback interface, and whoever came."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def listen() -> None:
            while server.fileno() != -1:
                try:
                    came.append(server.accept())
                except OSError:
                    continue

        Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], came


@shut_in
def test_no_network(listener: tuple[int, list[object]]) -> None:
    port, came = listener
    dial = f"import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}), timeout=2).send(b'x')"
    assert done(dial).passed == (False,) and came == []
    assert done(dial, sandbox=open_air).passed == (True,) and len(came) == 1  # what would have been
    why = f"import errno, socket\ndef f():\n    try: socket.create_connection(('127.0.0.1', {port}), 2)\n"
    assert done(why + "    except OSError as e: return e.errno", "assert f() == errno.ENETUNREACH").passed == (True,)


@shut_in
def test_no_secret_of_the_trainer() -> None:
    env = "import os\ndef f():\n    assert 'SELFPLAY_TEST_SECRET' not in os.environ"
    assert done(env).passed == (True,)
    proc = f"import os\ndef f():\n    open('/proc/{os.getpid()}/environ').read()"
    assert done(proc).passed == (False,)
    assert done(proc, sandbox=open_air).passed == (True,)  # as said in its docs
    memory = "import os, ctypes\ndef f():\n    return ctypes.CDLL(None).ptrace(16, {pid}, 0, 0)"
    assert done(memory.format(pid=1), "assert f() == -1").passed == (True,)


@shut_in
def test_no_file_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    tmp_path.chmod(0o777)
    for deed in (
        f"open('{tmp_path}/there').read()", f"open('{tmp_path}/new', 'w').write('x')", "open('/etc/passwd').read()",
        f"open('{os.__file__}', 'a').write('x')", f"os.remove('{os.__file__}')", "os.listdir('/proc/1')",
        "os.listdir('/home')", "os.mkdir('/usr/lib/x')", "os.mknod('d', 0o60000 | 0o666, 0x801)", "os.chroot('.')",
    ):  # fmt: skip
        assert done(f"import os\ndef f():\n    {deed}").passed == (False,), deed
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    own = "import os, tempfile\ndef f():\n    open('a', 'w').write('x')\n    os.mkdir('d')\n    return os.listdir('.')"
    assert done(own, "assert sorted(f()) == ['a', 'd']").passed == (True,)
    assert done(own, "assert os.listdir('.') == []").passed == (True,)  # nothing is left of the one before
    assert done("import os\ndef f(): return os.getuid()", "assert f() != 0").passed == (True,)


@shut_in
@pytest.mark.parametrize(
    "deed",
    [
        "os.unshare(0x10000000)" if sys.version_info >= (3, 12) else "assert not libc.unshare(0x10000000)",
        "assert not libc.unshare(0x00020000)",
        "assert not libc.mount(b'none', b'/work', b'tmpfs', 0, None)",
        "assert not libc.setuid(0)",
        "os.execv('/bin/sh', ['sh'])",
        "subprocess.run(['ls'], check=True)",
    ],
)
def test_no_privilege_and_no_other_program(deed: str) -> None:
    code = f"import ctypes, os, subprocess\nlibc = ctypes.CDLL(None)\ndef f():\n    {deed}"
    assert done(code).passed == (False,)


@shut_in
def test_no_other_process() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        kill = f"import os\ndef f():\n    os.kill({sleeper.pid}, 9)"
        assert done(kill).passed == (False,)
        inside = "import os\nassert os.getppid() == 1\ndef f():\n"  # elsewhere these would end more than themselves
        assert done(inside + "    os.kill(1, 9)").passed == (True,)  # the first process is deaf
        everybody = inside + "    try: os.kill(-1, 9)\n    except ProcessLookupError: return 'nobody else'"
        assert done(everybody, "assert f() == 'nobody else'").passed == (True,)
        assert done(inside + "    os.killpg(0, 9)").passed == (False,)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def descendants(word: str) -> list[str]:
    """Processes whose command line has the word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_text():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@shut_in
@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
        "import os, time\nfor _ in range(5):\n    if not os.fork():\n        os.setsid()\n        time.sleep(60)",
        "import os, signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntime.sleep(60)",
    ],
    ids=["forks", "threads", "runaways", "deaf"],
)
def test_bombs_end_in_time_and_leave_nobody(bomb: str) -> None:
    before = set(descendants(str(CELL)))
    start = time.monotonic()
    quick = Sandbox(1.5, 512, 16, 8, isolated=True)
    assert quick.run(bomb, ("assert f() == 1",)).passed == (False,)
    assert time.monotonic() - start < 20
    assert set(descendants(str(CELL))) <= before


@shut_in
def test_how_many_processes() -> None:
    code = "import os, time\ndef f():\n    n = 0\n    while True:\n        try:\n"
    code += "            if not os.fork(): time.sleep(9)\n"
    code += "        except OSError: return n\n        n += 1"
    assert done(code, "assert f() == 7").passed == (True,)


@BOTH
def test_memory_and_files(sandbox: Sandbox) -> None:
    memory = "def f():\n    try: bytearray(10 * 1024**3)\n    except MemoryError: return 'none'"
    assert done(memory, "assert f() == 'none'", sandbox).passed == (True,)
    file = "import os\ndef f():\n    try:\n        with open('big', 'wb') as file:\n"
    file += "            for _ in range(1024): file.write(bytes(1 << 20))\n"
    file += "    except OSError: return os.path.getsize('big') <= 16 << 20"
    assert done(file, "assert f()", sandbox).passed == (True,)
    if sandbox.isolated:
        many = "def f():\n    try:\n        for i in range(9999):\n"
        many += "            with open(str(i), 'wb') as file: file.write(bytes(1 << 16))\n"
        assert done(many + "    except OSError: return i <= 16 << 4", "assert f()").passed == (True,)


# --- a sandbox that cannot be had -------------------------------------------------------------------------------------


def test_a_sandbox_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lines, words in (
        ('print(\'{"failed": "unshare: Operation not permitted"}\')', r"\(unshare: Operation not permitted\)"),
        ("raise ImportError('no ctypes')", r"\(ImportError: no ctypes\)"),
    ):
        cell = tmp_path / "cell.py"
        cell.write_text(lines)
        monkeypatch.setattr("selfplay.referees.sandbox.CELL", cell)
        with pytest.raises(SelfplayError, match=f"the sandbox cannot start {words}, so no code was run; let this"):
            LIMITS.run(f"never run before, {lines}", ("assert True",))


@shut_in
@pytest.mark.skipif(os.getuid() != 0, reason="only root can forbid it")
def test_where_the_kernel_forbids_namespaces_nothing_is_run() -> None:
    """In a namespace that may have no further ones, for root and for others."""
    job = {
        "code": "", "tests": ["assert True"], "nonce": "n", "folder": "/nowhere", "library": libraries(), "seconds": 5,
        "megabytes": 512, "file_megabytes": 16, "processes": 8, "isolated": True,
    }  # fmt: skip
    script = 'for kind in user net; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done; exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-I", "-S", str(CELL)]
    said = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, check=False).stdout
    assert json.loads(said) == {"failed": "unshare: No space left on device"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0.0}, "sandbox.seconds is 0.0"),
        ({"megabytes": 1}, "sandbox.megabytes is 1"),
        ({"processes": 0}, "sandbox.processes is 0"),
        ({"file_megabytes": 0}, "sandbox.file_megabytes is 0"),
    ],
)
def test_a_limit_out_of_range(changes: dict[str, float], words: str) -> None:
    with pytest.raises(SelfplayError, match=words):
        Sandbox(**{"seconds": 1.0, "megabytes": 99, "file_megabytes": 1, "processes": 1, "isolated": True, **changes})  # type: ignore[arg-type]


# --- the task and the referee -----------------------------------------------------------------------------------------

ISOLATED = walls_stand()


def programs(path: Path | None = None, held_out: float = 0.4) -> Programs:
    return Programs(None if path is None else str(path), held_out, LIMITS if ISOLATED else open_air)


@pytest.mark.slow
def test_every_packaged_problem_is_solved_by_its_answer_and_not_by_another() -> None:
    task = programs()
    items = list(task.items.values())
    assert len(items) == 18 and all(item.answer for item in items)
    for item, other in zip(items, [*items[1:], items[0]], strict=True):
        assert task.correct(item, f"Sure.\n```python\n{item.answer}\n```") == 1.0, item.question
        assert task.correct(item, other.answer) < 1.0, item.question


def test_the_split_is_by_the_question_alone() -> None:
    task = programs()
    held = {item.question for item in task.held_out()}
    drawn = {task.draw(random.Random(i)) for i in range(400)}
    assert held | drawn == set(task.items) and not held & drawn and len(held) == 8
    assert {item.question for item in programs(held_out=0.5).held_out()} > held
    assert {label for item in task.held_out() for label in item.labels} == {"kinds"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 questions"),
        ("{", r"line 1 of .* is no problem with tests \(JSONDecodeError"),
        ('{"question": "q"}', r"line 1 .*KeyError: 'tests'"),
        ('{"question": "q", "tests": []}', "line 1 .*a test at least"),
        ('{"question": 7, "tests": ["assert 1"]}', "line 1 .*a question in words"),
        ('{"question": "q", "tests": [{"stdin": "x"}]}', "line 1 .*'stdout'"),
        ('{"question": "q", "tests": ["assert ="]}', "line 1 .*SyntaxError: invalid syntax"),
        ('{"question": "q", "tests": [7]}', "line 1 .*a test is an assertion, or"),
        ('{"question": "q", "tests": ["x"]}\n\n{"question": "q", "tests": ["y"]}', "line 2 of .* asks 'q' again"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_a_file_that_is_no_task(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SelfplayError, match=words):
        programs(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SelfplayError, match=r"nowhere cannot be read \(No such file"):
        programs(Path("/nowhere"))


def test_the_referee_by_hand() -> None:
    task = programs()
    question = next(q for q in task.items if "is_even" in q)
    right, half = task.items[question].answer, "def is_even(n):\n    return True"
    said = [(question, right), (question, half), ("what?", right), (question, ""), (question, right)]
    turns = [Turn(Ask("solver", user(q)), Reply(a)) for q, a in said]
    referee = Code(task, parallel=2)
    assert referee.score(turns, {}).tolist() == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert of_referees({"reward": referee}) == {"reward/solved": 0.25, "reward/late": 0.0, "reward/unknown": 0.25}
    assert Verifier(task).score(turns, {}).tolist() == [1.0, 0.5, 0.0, 0.0, 1.0]


def test_code_needs_programs() -> None:
    with pytest.raises(SelfplayError, match="reward=code needs programs, the task is TinyWorld; use task=programs"):
        Code(TinyWorld(1, 0), 1)
    node = config("reward=code", "task=programs").reward
    assert isinstance(make(node, "reward"), Code)


def test_a_sandbox_that_cannot_start_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tmp_path / "cell.py"
    cell.write_text('print(\'{"failed": "unshare: no"}\')')
    monkeypatch.setattr("selfplay.referees.sandbox.CELL", cell)
    small = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *small, *cli.needing("reward=code"), "seed=77")
    assert ended.code == 1 and ended.err.startswith("error: the sandbox cannot start (unshare: no)")
    assert cli.summary(tmp_path / "run")["status"] == "failed"
