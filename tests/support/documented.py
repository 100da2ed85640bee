"""A reader of the documentation, who types the commands of a page in order, in an empty folder.

Runs and commands of selfplay are executed in this process, as tests/support/shortened.py makes them. A placeholder
(`outputs/<day>/<time>`, RUN) is what the page made last, or else one of three small runs. What is not run is in
ELSEWHERE and COMPOSED.
"""

import atexit
import io
import re
import runpy
import shlex
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import cli
import stored
from chat_models import stand_in
from shortened import of_first_job, smaller, supply, with_stand_ins

from selfplay.__main__ import COMMANDS, main
from selfplay.config import check_config

BLOCK = re.compile(
    r"^(?: *<!-- (?P<mark>\w+) -->\n)?(?P<margin> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = (".", "cat", "cd", "ls", "mkdir")  # no effect in this process
ELSEWHERE = {  # the first words of a command that is not run -> the reason
    "make": "installs packages, or runs for minutes to hours; the target must exist",
    "pip install": "changes the environment",
    "git clone": "needs a network",
    "python -m pytest": "tests of the reader's own",
    "vllm serve": "a program of another environment",
    "lm_eval": "downloads its questions",
    "hf auth": "needs an account",
    "experiments/": "runs for hours; the file must exist",
    "python experiments/": "reads what ran for hours; the file must exist",
    "torchrun": "several processes, tests/parallel; what they are given must compose",
    "selfplay serve": "needs vLLM, tests/test_serve.py; the options must parse",
    "selfplay push": "needs an account, tests/test_push.py; the options must parse",
}
COMPOSED = {  # a word of a run or sweep that is only composed -> the reason
    "hydra/launcher=submitit_slurm": "a cluster; tests/runs/test_sweep_launchers.py",
    "hydra/launcher=ray": "a cluster; tests/runs/test_sweep_launchers.py",
    "update.optimizer._target_=selfplay.updates.adamw_8bit.adamw_8bit": "torchao, which lies apart; test_adamw_8bit.py",
}
PACKAGES = {  # what a word of a command needs -> a module of it
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
    "hydra/launcher=ray": "hydra_plugins.hydra_ray_launcher",
    "hydra/sweeper=optuna": "hydra_plugins.hydra_optuna_sweeper",
    "eval=ifbench": "ifbench",
    "reasoning_gym": "reasoning_gym",
}


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [
        Block(one["mark"] or "", one["language"], dedent(one["text"]) if one["margin"] else one["text"])
        for one in found
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.sub(r"(^|\s+)#.*", "", line).split(" && "):
            if words := shlex.split(part):
                yield words


class Reader:
    """Types the commands of one page.

    Attributes:
        runs, sweeps: the folders that its commands wrote, in order.
    """

    def __init__(self) -> None:
        self.runs: list[Path] = []
        self.sweeps: list[Path] = []
        self._other = 0

    def types(self, words: Sequence[str], refused: bool = False) -> str:
        """Run a command, which must end well, or must not; return what it said."""
        words = self._named(plain(words))
        line = " ".join(words)
        if absent := [module for word, module in PACKAGES.items() if word in line and not found(module)]:
            warnings.warn(f"not run without {absent[0]}: {line}", stacklevel=2)
            return ""
        if left_out(words):
            return ""
        if words[0] == "python":
            return script(words[1:])
        assert words[0] == "selfplay", f"a command of an unknown kind: {line}"
        if len(words) > 1 and words[1] in COMMANDS and words[1] != "run":
            return helper(words[1:], refused)
        return self._run([word for word in words[1:] if word != "run"], refused)

    def _run(self, words: list[str], refused: bool) -> str:
        words = smaller(words)
        ended = cli.run(*words)
        assert (ended.code != 0) == refused, f"{words}\n{ended.out}\n{ended.err}"
        self.runs += map(Path, re.findall(r"^run folder: (.+)$", ended.out, re.MULTILINE))
        self.sweeps += sorted((path.parent for path in Path().glob("multirun/**/jobs.jsonl")), key=newest)[-1:]
        return ended.err if refused else ended.out

    def _named(self, words: Sequence[str]) -> list[str]:
        """The command with a folder in place of each placeholder."""
        return [self._filled(word) for word in words if word != "..."]

    def _filled(self, word: str) -> str:
        sweep = str(self.sweeps[-1] if self.sweeps else made())
        word = re.sub(r"multirun/<day>/<time>|^SWEEP$", lambda _: sweep, word)
        if re.search(r"outputs/<day>/<time>|outputs/\.\.\.|<run>|<checkpoint>|^RUN$", word):
            run = self._another() if word == "RUN" or not self.runs else self.runs[-1]
            run = Path(stored.asked()) if word.startswith("task.path=") else run
            last = sorted((run / "checkpoints").glob("step-*"))[-1:]
            word = re.sub(r"outputs/<day>/<time>|outputs/\.\.\.|<run>|^RUN$", lambda _: str(run), word)
            word = re.sub(r"<checkpoint>|\S+/checkpoints/step-\d+$", lambda _: str(last[0]), word)
        return re.sub(r"<(base )?model>|^MODEL$|(?<=path=)MODEL$", lambda _: stand_in(False), word)

    def _another(self) -> Path:
        self._other += 1
        return made() / str(self._other % 3)


def plain(words: Sequence[str]) -> list[str]:
    """A command without the variables that it sets, and by the name under which selfplay is installed."""
    words = [*words]
    while re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if words[:2] == ["python", "run.py"]:
        words[:2] = ["selfplay"]
    if words[:2] == ["python", "-m"] and words[2].partition(".")[0] == "selfplay":
        words[:3] = ["selfplay", *filter(None, [words[2].partition(".")[2].replace("_", "-")])]
    return words


def found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def left_out(words: Sequence[str]) -> str:
    """Why a command is not run; what can be seen of it without running it is right."""
    line = " ".join(words)
    if words[0] in SHELL:
        return "no effect here"
    if words[:2] == ["python", "experiments/small_games/trajectories.py"]:
        return ""
    if only := [word for word in words if word in COMPOSED]:
        check(words[1:])
        return only[0]
    kinds = [first for first in ELSEWHERE if f"{line} ".startswith(first if first.endswith("/") else f"{first} ")]
    kind = "".join(kinds)
    if kind == "make":
        targets = re.findall(r"^(\w[\w-]*):", (cli.ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), line
    elif kind.endswith("experiments/"):
        assert (cli.ROOT / words[words[0] == "python"]).is_file(), line
    elif kind == "torchrun":
        check(words[words.index("run.py") + 1 :])
    elif kind.startswith("selfplay "):
        own = words[: words.index("--")] if "--" in words else words
        parser: ArgumentParser = import_module(COMMANDS[words[1]]).parser()
        parser.parse_args(list(own[2:]))
    return kind


def check(words: Sequence[str]) -> None:
    """The options of a run, or of the first job of a sweep, make a config without a mistake."""
    check_config(of_first_job([word for word in words if not word.startswith("resume=")]))


def script(words: Sequence[str]) -> str:
    """A script of the repository."""
    out, argv = io.StringIO(), sys.argv
    sys.argv = [str(cli.ROOT / words[0]), *words[1:]]
    Path(words[0]).parent.mkdir(parents=True)  # where it draws
    try:
        with redirect_stdout(out):
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = argv
    return out.getvalue()


def helper(words: Sequence[str], refused: bool) -> str:
    """A command other than a run. One that talks with a person reads a few lines, and then their end."""
    words = ["8" if before == "--greedy" else word for before, word in zip(["", *words], words, strict=False)]
    for word in words:
        supply(word.partition("=")[2] or word)
    if words[0] == "memory" and not any(word.startswith("--") for word in words):
        own = [word for word in words if word.startswith(("processes=", "device.memory="))]
        words = ["memory", *with_stand_ins([word for word in words[1:] if word not in own]), *own]
    out, err, code, argv, stdin = io.StringIO(), io.StringIO(), None, sys.argv, sys.stdin
    sys.argv, sys.stdin = ["selfplay", *words], io.StringIO("1\n" * 4)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.stdin = argv, stdin
    assert bool(code) == refused, f"{words}: {code}\n{out.getvalue()}\n{err.getvalue()}"
    return err.getvalue() if refused else out.getvalue()


def newest(path: Path) -> float:
    return (path / "jobs.jsonl").stat().st_mtime


@cache
def made() -> Path:
    """A finished sweep of three small runs of the included model."""
    folder = tempfile.TemporaryDirectory(prefix="selfplay-documented-")
    atexit.register(folder.cleanup)
    small = ("reward=verifier", "eval=none", "steps=1", "episodes=2", "player.max_tokens=12")
    ended = cli.run("-m", *small, "game.answers=2", "seed=0,1,2", f"hydra.sweep.dir={folder.name}")
    assert ended.code == 0, ended.err
    return Path(folder.name)
