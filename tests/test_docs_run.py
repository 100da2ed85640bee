"""Every code block of the tutorials, the how-to pages, the concepts and extend.md runs, in order, in an empty folder.

A Python or yaml block whose first lines name a file (`# my_game.py`, `# conf/game/x.yaml`) is written there; other
Python is executed. Commands of selfplay run in this process, made small where they would take minutes; other commands
are of known kinds. A block after `<!-- refused -->` must fail, with the text of the block that follows it, and one
after `<!-- elsewhere -->` needs hardware, a network or an account.
"""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cli
import pytest

from selfplay.__main__ import COMMANDS, main

DOCS = cli.ROOT / "docs"
PAGES = [
    DOCS / "extend.md",
    *(page for part in ("tutorials", "howto", "concepts") for page in sorted(DOCS.glob(f"{part}/*.md"))),
]
OTHERS = [page for page in sorted(DOCS.glob("*.md")) if page not in PAGES and "```python" in page.read_text()]
BLOCK = re.compile(r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^# ([\w./-]+\.(?:py|yaml|jsonl|csv))$", re.MULTILINE)
SHELL = ("pip install ", "make ", "cd ", "ls ", "cat ", "python -m pytest", "git clone ", ". ", "mkdir ")
QUICK = (
    "steps=1",
    "episodes=2",
    "player.max_tokens=12",
    "task.per_cell=1",
)  # what a run of the default model takes instead


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["mark"] or "", one["language"], one["text"]) for one in found]


def commands(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        if line := re.sub(r"(^|\s+)#.*", "", line).strip():
            yield line


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_blocks_of_a_page_run(page: Path, empty: Path) -> None:
    names: dict[str, object] = {}
    parts = blocks(page)
    for block, after in zip(parts, [*parts[1:], Block("", "", "")], strict=True):
        if block.mark == "elsewhere":
            continue
        if block.language in ("python", "yaml", "json", "csv") and (name := FILE.search(block.text[:200])):
            (empty / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (empty / name[1]).write_text(block.text)
        elif block.language == "python":
            exec(block.text, names)
        elif block.language == "bash":
            for line in commands(block.text):
                said = ran(line, refused=block.mark == "refused")
                if block.mark == "refused":
                    assert " ".join(after.text.split()) in " ".join(said.split()), said
        else:
            assert block.language in ("", "yaml", "toml", "text"), block


@pytest.mark.parametrize("name", ["index.md", "getting_started.md", "tutorials/first_run.md"])
def test_the_first_pages_say_that_both_commands_are_the_same(name: str) -> None:
    head = " ".join((DOCS / name).read_text(encoding="utf-8")[:1500].split())
    [told] = [one for one in re.split(r"(?<=[.;]) ", head) if "same command" in one]
    assert "`python run.py`" in told and "clone" in told


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_the_python_of_the_other_pages_runs(page: Path, empty: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "python":
            with redirect_stdout(io.StringIO()):
                exec(block.text, names)


def ran(line: str, refused: bool) -> str:
    """Run a command; return what it said."""
    words = [word for word in shlex.split(line) if word != "\\"]
    if words[:2] == ["python", "run.py"]:
        words = ["selfplay", *words[2:]]
    if words[0] != "selfplay":
        assert line.startswith(SHELL), f"a command of an unknown kind: {line}"
        return ""
    words = words[1:]
    if words and words[0] in COMMANDS and words[0] != "run":
        return helper(words)
    ended = cli.run(*words, *quicker(words))
    assert (ended.code != 0) == refused, f"{line}\n{ended.out}\n{ended.err}"
    return ended.err if refused else ended.out


def quicker(words: list[str]) -> list[str]:
    """Options that make a run quick; those that the command itself sets stay as they are."""
    if any(word.startswith(("resume=", "experiment=", "--")) for word in words):
        return []
    small = QUICK[:1] if "player=tabular" in words or "task=records" in words else QUICK
    if "player=tiny" in words:
        small = QUICK[:-1]  # with a game that reads no task
    return [option for option in small if not any(word.startswith(option.partition("=")[0]) for word in words)]


def helper(words: list[str]) -> str:
    """A command other than a run."""
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["selfplay", *words]
    try:
        with redirect_stdout(out):
            main()
    except SystemExit as end:
        assert not end.code, f"{words}: {end.code}"
    finally:
        sys.argv = argv
    return out.getvalue()
