"""Every code block of README.md and the documentation runs, in order, page by page, in an empty folder.

A Python or yaml block whose first lines name a file (`# my_game.py`, `# conf/game/x.yaml`) is written there; other
Python is executed. Commands of selfplay run in this process: made small where they would take minutes, with stand-ins
for models on a hub and for servers (tests/support/shortened.py). The commands that are not run are of the kinds that
tests/support/documented.py lists, with the reason. A sweep that README.md shows as well runs there only. A block after
`<!-- refused -->` must fail, with the text of the block that follows it, and one after `<!-- elsewhere -->` needs an
account, a network or minutes. tests/test_slurm_script.py runs the shell scripts (`sh`), test_readme.py the game of
README.md until it is learnt.
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import cli
import pytest
from documented import Block, Reader, blocks, commands

DOCS = cli.ROOT / "docs"
README = cli.ROOT / "README.md"
LINES = [words for block in blocks(README) if block.language == "bash" for words in commands(block.text)]
SWEEPS = [words for words in LINES if words[:3] == ["python", "run.py", "-m"]]
PAGES = [README, *(page for page in sorted(DOCS.glob("**/*.md")) if "```" in page.read_text())]
FILE = re.compile(r"^# ([\w./-]+\.(?:py|yaml|jsonl|csv))(?:[,;] .*)?$", re.MULTILINE)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("JUDGE_API_KEY", "of-nobody")
    monkeypatch.setenv("RM_API_KEY", "of-nobody")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(cli.ROOT)))
def test_the_blocks_of_a_page_run(page: Path, empty: Path) -> None:
    names: dict[str, object] = {}
    reader, parts = Reader(), blocks(page)
    for block, after in zip(parts, [*parts[1:], Block("", "", "")], strict=True):
        if block.mark == "elsewhere":
            continue
        if block.language in ("python", "yaml", "json", "csv") and (name := FILE.search(block.text[:200])):
            (empty / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (empty / name[1]).write_text(block.text)
        elif block.language == "python":
            with redirect_stdout(io.StringIO()):
                exec(block.text, names)
        elif block.language == "bash":
            for words in commands(block.text):
                if page != README and words in SWEEPS:
                    continue
                said = reader.types(words, refused=block.mark == "refused")
                if block.mark == "refused":
                    assert " ".join(after.text.split()) in " ".join(said.split()), said
        else:
            assert block.language in ("", "json", "yaml", "toml", "text", "sh"), block


@pytest.mark.parametrize("name", ["index.md", "getting_started.md", "tutorials/first_run.md"])
def test_the_first_pages_say_that_both_commands_are_the_same(name: str) -> None:
    head = " ".join((DOCS / name).read_text(encoding="utf-8")[:1500].split())
    [told] = [one for one in re.split(r"(?<=[.;]) ", head) if "same command" in one]
    assert "`python run.py`" in told and "clone" in told
