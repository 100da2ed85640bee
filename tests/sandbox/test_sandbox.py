"""Code that a model wrote is run: what passes, and how little it can do beside that."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cli
import pytest
from configs import config
from confined import isolations

from selfplay.building import make
from selfplay.core import Ask, Reply, SelfplayError, Turn, user
from selfplay.metrics import of_referees
from selfplay.referees.code import Code
from selfplay.referees.verifier import Verifier
from selfplay.sandbox.sandbox import Outcome, Sandbox, chosen, code_in
from selfplay.tasks.programs import Programs
from selfplay.tasks.tiny_world import TinyWorld

LIMITS = Sandbox(seconds=10.0, megabytes=512, file_megabytes=16)


ISOLATIONS = isolations(LIMITS)
shut_in = pytest.mark.skipif(not ISOLATIONS, reason="this kernel or container has no user namespaces for us")
open_air = replace(LIMITS, isolation="none")
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
    quick = replace(sandbox, seconds=1.0)
    code = "def f(n):\n    while n > 1: pass\n    return n"
    assert quick.run(code, ("assert f(1) == 1", "assert f(2) == 2", "assert f(0) == 0")) == Outcome(
        (True, False, False), late=True
    )
    assert quick.run("while True: pass", (("", ""), ("", ""))) == Outcome((False, False), late=True)


@BOTH
def test_output_that_was_cut_is_not_what_was_expected(sandbox: Sandbox) -> None:
    """1 MiB passes; one character more is cut, and what is left equals the expected output no more."""
    most = 1 << 20
    tests = ((str(most), "a" * most), (str(most + 1), "a" * most))
    assert sandbox.run("print('a' * int(input()), end='')", tests).passed == (True, False)


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


# --- what it may use --------------------------------------------------------------------------------------------------


def done(code: str, check: str = "assert f() is None", sandbox: Sandbox = LIMITS) -> Outcome:
    """How it fares: `f` does the deed and says what came of it."""
    return sandbox.run(code, (check,))


@shut_in
def test_a_folder_of_its_own() -> None:
    own = "import os, tempfile\ndef f():\n    open('a', 'w').write('x')\n    os.mkdir('d')\n    return os.listdir('.')"
    assert done(own, "assert sorted(f()) == ['a', 'd']").passed == (True,)
    assert done("import os\ndef f(): return os.listdir('.')", "assert f() == []").passed == (True,)  # nothing is left
    assert done("import os\ndef f(): return os.getuid()", "assert f() != 0").passed == (True,)


@shut_in
def test_how_many_threads() -> None:
    code = "import threading, time\ndef f():\n    n = 0\n    while True:\n        try:\n"
    code += "            threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    code += "        except RuntimeError: return n\n        n += 1"
    for isolation in ISOLATIONS:
        assert done(code, "assert f() == 7", replace(LIMITS, isolation=isolation)).passed == (True,), isolation


@BOTH
def test_memory_and_files(sandbox: Sandbox) -> None:
    memory = "def f():\n    try: bytearray(10 * 1024**3)\n    except MemoryError: return 'none'"
    assert done(memory, "assert f() == 'none'", sandbox).passed == (True,)
    file = "import os\ndef f():\n    try:\n        with open('big', 'wb') as file:\n"
    file += "            for _ in range(1024): file.write(bytes(1 << 20))\n"
    file += "    except OSError: return os.path.getsize('big') <= 16 << 20"
    assert done(file, "assert f()", sandbox).passed == (True,)
    if sandbox.isolation != "none":
        many = "def f():\n    try:\n        for i in range(9999):\n"
        many += "            with open(str(i), 'wb') as file: file.write(bytes(1 << 16))\n"
        assert done(many + "    except OSError: return i <= 16 << 4", "assert f()").passed == (True,)


# --- a sandbox that cannot be had -------------------------------------------------------------------------------------


def test_a_sandbox_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for boot, words in (
        ('print(\'{"failed": "unshare: Operation not permitted"}\')', r"\(unshare: Operation not permitted\)"),
        ("raise ImportError('no ctypes')", r"\(ImportError: no ctypes\)"),
    ):
        monkeypatch.setattr("selfplay.sandbox.launch.BOOT", boot)
        with pytest.raises(
            SelfplayError, match=f"cannot start with isolation=namespaces {words}, so no code was run"
        ) as e:
            replace(LIMITS, isolation="namespaces").run(f"never run before, {boot}", ("assert True",))
        assert "reward.isolation=none" in str(e.value)


@shut_in
@pytest.mark.skipif(os.getuid() != 0, reason="only root can forbid it")
def test_where_the_kernel_forbids_namespaces_nothing_is_run() -> None:
    """In a namespace that may have no further ones, for root and for others."""
    run = (
        "from selfplay.core import SelfplayError; from selfplay.sandbox.sandbox import Sandbox\n"
        "for isolation in ('auto', 'namespaces'):\n"
        "    try: print(Sandbox(5.0, 512, 16, isolation=isolation).run('', ('assert True',)))\n"
        "    except SelfplayError as error: print(error)\n"
    )
    script = 'for kind in user net; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done; exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", run]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert (
            line.startswith("the sandbox cannot start with isolation=namespaces (") and "No space left on dev" in line
        )
        assert "reward.isolation=none" in line


def test_bubblewrap_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SelfplayError, match="isolation=bubblewrap needs the program bwrap"):
        replace(LIMITS, isolation="bubblewrap")


@pytest.mark.parametrize("isolation", [None, True, False, "", "firejail", "NONE"])
def test_isolation_is_chosen_by_name(isolation: object) -> None:
    with pytest.raises(SelfplayError, match=r"isolation is .*; choose one of auto, bubblewrap, namespaces, none"):
        replace(LIMITS, isolation=isolation)  # type: ignore[arg-type]


def test_settings_of_before_are_told_their_new_names() -> None:
    for key, words in (("isolated", "is now sandbox.isolation"), ("processes", "is now sandbox.threads")):
        with pytest.raises(SelfplayError, match=words):
            replace(LIMITS, **{key: False})  # type: ignore[arg-type]


def test_the_rewards_isolation_is_that_of_the_task() -> None:
    args = ["game=dataset", "task=programs", "reward=code"]
    assert config(*args).task.sandbox.isolation == "auto"
    plain = config(*args, "reward.isolation=none")
    assert plain.task.sandbox.isolation == "none" and make(plain.reward, "reward").sandbox.isolation == "none"
    assert config(*args[:2], "reward=verifier", "task.sandbox.isolation=none").task.sandbox.isolation == "none"
    assert config(*args[:2], "reward=none").task.sandbox.isolation == "auto"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0.0}, "sandbox.seconds is 0.0"),
        ({"megabytes": 1}, "sandbox.megabytes is 1"),
        ({"threads": 0}, "sandbox.threads is 0"),
        ({"file_megabytes": 0}, "sandbox.file_megabytes is 0"),
    ],
)
def test_a_limit_out_of_range(changes: dict[str, float], words: str) -> None:
    with pytest.raises(SelfplayError, match=words):
        Sandbox(**{"seconds": 1.0, "megabytes": 99, "file_megabytes": 1, **changes})  # type: ignore[arg-type]


# --- the task and the referee -----------------------------------------------------------------------------------------


def programs(path: Path | None = None, held_out: float = 0.4) -> Programs:
    return Programs(None if path is None else str(path), held_out, LIMITS if ISOLATIONS else open_air)


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
        ("{", r"line 1 of .* is not a problem with tests \(JSONDecodeError"),
        ('{"question": "q"}', r"line 1 .*KeyError: 'tests'"),
        ('{"question": "q", "tests": []}', "line 1 .*at least one test"),
        ('{"question": 7, "tests": ["assert 1"]}', "line 1 .*a question string"),
        ('{"question": "q", "tests": [{"stdin": "x"}]}', "line 1 .*'stdout'"),
        ('{"question": "q", "tests": ["assert ="]}', "line 1 .*SyntaxError: invalid syntax"),
        ('{"question": "q", "tests": [7]}', "line 1 .*a test must be an assertion, or"),
        ('{"question": "q", "tests": ["x"]}\n\n{"question": "q", "tests": ["y"]}', "line 2 of .* repeats the question"),
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
    with pytest.raises(SelfplayError, match="reward=code needs programs, but the task is TinyWorld; use task=programs"):
        Code(TinyWorld(1, 0), 1)
    node = config("reward=code", "task=programs").reward
    assert isinstance(make(node, "reward"), Code)


def test_a_sandbox_that_cannot_start_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.sandbox.launch.BOOT", 'print(\'{"failed": "unshare: no"}\')')
    chosen.cache_clear()
    small = [arg for arg in cli.SMALL if not arg.startswith("reward=")]
    needed = [arg for arg in cli.needing("reward=code") if "isolation" not in arg]
    try:
        ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", *small, *needed, "reward.isolation=auto", "seed=77")
    finally:
        chosen.cache_clear()
    assert ended.code == 1 and ended.err.startswith("error: the sandbox cannot start with isolation=")
    assert "(unshare: no)" in ended.err and "reward.isolation=none" in ended.err
    assert cli.summary(tmp_path / "run")["status"] == "failed"
