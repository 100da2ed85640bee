"""README and docs: the example works, commands compose, files and links exist, the reference is current."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from selfplay import reference
from selfplay.commandline import arguments, mistake
from selfplay.config import check_config
from selfplay.project import CONF
from selfplay.reference import page
from selfplay.testing import check_game

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "analysis/*.md", "experiments/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def block(language: str) -> str:
    """The README's one code block of a language."""
    [text] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(text)


def test_the_readme_is_short_and_in_order() -> None:
    assert len(README.encode()) <= 6000
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "Install and run",
        "Five commands",
        "Four interfaces",
        "A game in your own project",
        "Results",
        "Related projects",
        "Read on",
    ]
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 1
    five = README.partition("## Five commands")[2].partition("```bash\n")[2].partition("```")[0]
    assert len(re.findall(r"^python ", five, re.MULTILINE)) == 5
    assert len(block("python").splitlines()) + len(block("yaml").splitlines()) <= 35


def test_the_example_game_trains_from_its_two_files(tmp_path: Path) -> None:
    (tmp_path / "my_game.py").write_text(block("python"))
    (tmp_path / "conf" / "game").mkdir(parents=True)
    (tmp_path / "conf" / "game" / "signals.yaml").write_text(block("yaml"))
    run = tmp_path / "run"
    learnt = ("player=tabular", "update.optimizer.lr=4")
    command = [sys.executable, "-m", "selfplay", "game=signals", *learnt, "hydra.run.dir=run"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {turn["role"] for turn in cli.lines(run / "episodes.jsonl")} == {"chance", "signaller", "guesser"}
    shown = [float(text) for text in re.findall(r"^step .* signaller/payoff (\S+)", ended.stdout, re.MULTILINE)]
    assert len(shown) >= 20 and max(shown[:2]) < 0.75 and min(shown[-3:]) > 0.85


def test_the_example_game_keeps_the_rules_of_every_game() -> None:
    namespace: dict[str, Any] = {}
    exec(block("python"), namespace)
    assert check_game(namespace["Signals"]()).game == "Signals"


def test_a_small_game_is_short() -> None:
    kuhn = [ROOT / "src/selfplay/games/kuhn.py", ROOT / "conf/game/kuhn.yaml"]
    lines = [len(path.read_text().splitlines()) for path in kuhn]
    assert lines[0] <= 50 and lines[1] <= 8


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    if page.name == "transcripts.md":  # generated text, not ours
        return
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


def commands(page: Path) -> list[str]:
    """The runs and sweeps in a page's blocks of shell commands."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [found[1].strip() for line in lines if (found := re.search(r"python run\.py\b(.*?)(?:  +#.*|&&.*)?$", line))]


RUNS = sorted({(str(page.relative_to(ROOT)), command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), RUNS, ids=lambda text: text)
def test_a_command_of_the_docs_composes(page: str, command: str) -> None:
    """Of a sweep, the first job."""
    words = [word for word in shlex.split(command) if word != "-m" and "<" not in word]
    assert mistake(words, [CONF]) is None
    single = [word for word in words if not word.startswith("hydra")]
    single = [re.sub(r"^([\w.@/]+=[^\[{(,]*),.*$", r"\1", word) for word in single]
    single = [re.sub(r"=tag\(.*$", "=1", word) for word in single]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", arguments(single, [CONF]), return_hydra_config=False)
    assert isinstance(cfg, DictConfig)
    if "???" not in str(cfg):  # an option that has to be given, in place of a <placeholder>
        check_config(cfg)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tests = {path.name for path in (ROOT / "tests").glob("**/*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", text)) <= tests
    files = {path.name for path in (*ROOT.glob("src/**/*.py"), *ROOT.glob("experiments/**/*.py"), ROOT / "run.py")}
    named = set(re.findall(r"`(\w+\.py)\b", text)) - {name for name in tests if name.startswith("test_")}
    assert {name for name in named if not name.startswith("my_")} <= files
    folders = (ROOT / "src" / "selfplay", ROOT, page.parent)
    for name in re.findall(r"(?<![\w./-])(?:[a-z_]+/)+[a-z_]+\.py\b", text):
        assert any((folder / name).is_file() for folder in folders), f"{page.name}: {name}"


def test_there_are_commands() -> None:
    assert len(RUNS) > 40 and any(page == "README.md" for page, _ in RUNS)


def test_the_reference_is_current() -> None:
    """`python -m selfplay.reference > docs/reference.md` after a change of an option."""
    made = reference.reference([CONF])
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == made


def test_the_reference_has_every_choice() -> None:
    made = reference.reference([CONF])
    for path in CONF.glob("*/*.yaml"):
        assert f"\n### {path.parent.name}={path.stem}\n" in made
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(page.GROUPS)


EXAMPLE = '''
from typing import Annotated, Literal
from selfplay import Game
from selfplay.options import Count, NotNegative, OneOf, Share


class Mine(Game):
    """A game.

    Args:
        rounds: how many rounds are played.
        bonus, share: two of them | with a bar.
    """

    def __init__(self, rounds: Count, bonus: NotNegative = 1.0, share: Share | None = None, kind: Literal["a"] = "a"):
        pass

    def play(self):
        yield []
'''


def test_the_reference_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "game").mkdir(parents=True)
    (tmp_path / "mine_of_reference.py").write_text(EXAMPLE)
    head = "# @package _global_\n# What I play.\ndefaults: [override /reward: none]\n"
    body = "game:\n  _target_: mine_of_reference.Mine\n  rounds: 3 # of two turns\nsteps: 7\n"
    (tmp_path / "conf" / "game" / "mine.yaml").write_text(head + body)
    changed = "# Longer.\ndefaults:\n  - mine\nrounds: 9\n"
    (tmp_path / "conf" / "game" / "longer.yaml").write_text(changed)
    monkeypatch.syspath_prepend(tmp_path)
    found = {choice.name: choice for choice in reference.choices("game", [CONF, tmp_path / "conf"])}
    mine = found["mine"]
    assert (mine.summary, mine.brings, mine.base) == ("What I play.", ("reward=none",), "")
    rows = reference.options("game", mine)
    assert [(row.name, row.default, row.type) for row in rows] == [
        ("rounds", "3", "int ≥ 1"),
        ("bonus", "1.0", "float ≥ 0"),
        ("share", "null", "float ≥ 0, ≤ 1 or null"),
        ("kind", "a", "one of `a`"),
    ]
    assert [row.meaning for row in rows[:2]] == ["how many rounds are played", "two of them | with a bar"]
    [longer] = reference.options("game", found["longer"])
    assert (longer.name, longer.default, longer.type) == ("rounds", "9", "int ≥ 1")
    page = reference.reference([CONF, tmp_path / "conf"])
    assert "two of them \\| with a bar |" in page and "Also sets `steps=7`." in page
    assert "As [`mine`](#gamemine), with these changes:" in page
