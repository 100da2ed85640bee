"""selfplay as a package: its command, its configs beside a user's own, its API; and all of it from the wheel."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import cli
import pytest
from configs import config
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

import selfplay
from hydra_plugins.selfplay_search_path import SelfplaySearchPath
from selfplay import project, soup
from selfplay.__main__ import COMMANDS, USAGE
from selfplay.commandline import program
from selfplay.core import SelfplayError
from selfplay.runs.jobs import _command

GAME = '''"""Matching pennies."""
from selfplay import Ask, Game


class Coins(Game):
    roles, zero_sum = ("even", "odd"), True

    def play(self):
        even, odd = yield [Ask(role, options=("heads", "tails")) for role in self.roles]
        win = 1.0 if even.text == odd.text else -1.0
        return {"even": win, "odd": -win}
'''
YAML = """# @package _global_
defaults: [override /reward: none, override /eval: none]
game: {_target_: coins.Coins}
"""
DOCS = (cli.ROOT / "docs" / "package.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
RUN = ("game=coins", "player=tabular", "steps=2", "episodes=8")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's project: one game and its yaml."""
    (tmp_path / "conf" / "game").mkdir(parents=True)
    (tmp_path / "conf" / "game" / "coins.yaml").write_text(YAML)
    (tmp_path / "coins.py").write_text(GAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("coins", None)


def searched(provider: str, path: str) -> list[str]:
    search_path = ConfigSearchPathImpl()
    search_path.append(provider, path)
    SelfplaySearchPath().manipulate_search_path(search_path)
    return [element.path for element in search_path.get_path()[1:]]


def test_a_project_elsewhere_needs_two_files(mine: Path) -> None:
    ended = cli.run(*RUN)
    assert ended.code == 0, ended.err
    [run] = (mine / "outputs").glob("*/*")
    assert f"run folder: {run.relative_to(mine)}\n" in ended.out
    assert [line["step"] for line in cli.metrics(run)] == [1, 2]
    wrong = cli.run("game=coin")
    assert wrong.code == 1 and "game has no choice 'coin'; did you mean coins" in wrong.err


def test_it_says_what_to_type_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"run.py": "python run.py", "/a/run.py": "python run.py"}
    for argv, words in {**told, "/bin/selfplay": "selfplay", "/site/selfplay/__main__.py": "selfplay"}.items():
        monkeypatch.setattr(sys, "argv", [argv, "-m", "seed=0,1"])
        assert program() == words
        again = f"python {argv} -m seed=0,1" if "run.py" in argv else "selfplay -m seed=0,1"
        assert _command("multirun/x") == f"{again} hydra.sweep.dir=multirun/x"


def test_other_programs_find_what_they_always_found(mine: Path) -> None:
    assert searched("main", f"file://{project.CONF}") == searched("main", str(project.CONF)) == [f"file://{mine}/conf"]
    assert searched("main", "file:///another/conf") == searched("other", str(project.CONF)) == []


def test_in_the_clone_nothing_is_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.ROOT)
    assert project.config_folders() == {}


def test_an_installed_package_brings_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought" / "conf" / "game").mkdir(parents=True)
    (tmp_path / "brought" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    entries = [EntryPoint("mine", "brought.conf", "selfplay.conf")]
    monkeypatch.setattr(project, "entry_points", lambda group: entries if group == "selfplay.conf" else [])
    monkeypatch.setattr(project, "_declared", project._declared.__wrapped__)  # what is installed is read once
    assert project.config_folders() == {"brought.conf": tmp_path / "brought" / "conf"}
    entries[0] = EntryPoint("mine", "brought.nothing", "selfplay.conf")
    with pytest.raises(
        SelfplayError, match=r"mine \(selfplay.conf\) names brought.nothing, but no such folder is installed; let"
    ):
        project.config_folders()


def test_a_run_from_python(mine: Path) -> None:
    run = selfplay.train("update.optimizer.lr=2", game="coins", player="tabular", steps=2, folder="run")
    assert run.metrics["step"].tolist() == [1, 2] and run.runs["status"].tolist() == ["finished"]
    again = selfplay.train("update.optimizer.lr=2", game="coins", player="tabular", steps=2, folder="again")
    assert again.metrics["loss"].tolist() == run.metrics["loss"].tolist()
    assert cli.lines(mine / "run" / "episodes.jsonl") == cli.lines(mine / "again" / "episodes.jsonl")
    for wrong, words in ({"game": "coin"}, "did you mean coins"), ({"game": "coins", "steps": -1}, "steps is -1"):
        with pytest.raises(SelfplayError, match=words):
            selfplay.train(folder="wrong", **wrong)
        assert not (mine / "wrong").exists()
    with pytest.raises(SelfplayError, match="train starts a new run"):
        selfplay.train(resume="run")
    with pytest.raises(SelfplayError, match="already holds a run"):
        selfplay.train(game="coins", player="tabular", steps=2, folder="run")


@pytest.mark.parametrize("code", CODE)
def test_the_code_of_the_docs_runs(code: str, mine: Path) -> None:
    exec(code, {})
    runs = [path.name for path in mine.glob("outputs/*")]
    assert runs == (["kuhn"] if "train" in code else [])


def test_every_public_name_is_there() -> None:
    for name in selfplay.__all__:
        assert getattr(selfplay, name).__doc__, name
    with pytest.raises(AttributeError, match="'selfplay' has no attribute 'nothing'"):
        selfplay.nothing  # noqa: B018


def command(*args: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([sys.executable, "-m", "selfplay", *args], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_command_has_a_version_and_a_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("--version").stdout.startswith("selfplay 0.")
    usage = command("--help").stdout
    assert "selfplay crossplay FOLDERS" in usage and "== Configuration groups ==" in usage
    assert "usage: selfplay report" in command("report", "--help").stdout
    assert command("gam=lsp").returncode == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert callable(import_module(COMMANDS[name]).main)
    assert re.search(rf"^    selfplay \[?{name}\]? ", USAGE, re.MULTILINE)
    assert name == "run" or f"`selfplay {name}`" in DOCS


def test_the_commands_of_the_docs_are_there() -> None:
    typed = re.findall(r"^selfplay (\S+) .*$|`selfplay ([^`\s]+)", DOCS, re.MULTILINE)
    found = {word for pair in typed for word in pair if word}
    assert {word for word in found if "=" not in word and not word.startswith("-")} <= set(COMMANDS)
    runs = re.findall(r"^selfplay (\S+=.*?)(?:  +#.*)?$", DOCS, re.MULTILINE)
    assert runs and all(cfg.steps or cfg.eval for cfg in (config(*line.split()) for line in runs))
    for line in re.findall(r"^selfplay soup (.*?)(?:  +#.*)?$", DOCS, re.MULTILINE):
        assert soup.parser().parse_args(line.split()).out in map(Path, ("soup", "weighted", "greedy"))


def quiet(*command: object, **options: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_is_enough(mine: Path) -> None:
    """Built, installed into an environment of its own, and used from a folder that holds a game and its yaml."""
    place = mine.parent / f"{mine.name}-installed"
    python, installed = place / "bin" / "python", place / "bin" / "selfplay"
    quiet(sys.executable, "-m", "venv", place)
    quiet(python, "-m", "pip", "install", "--no-compile", "torch==2.13.0")  # by pip, as the Makefile says
    quiet(sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", mine / "dist", cli.ROOT)
    [wheel] = (mine / "dist").glob("selfplay-*.whl")
    pinned = ("--constraint", cli.ROOT / "constraints.txt")
    quiet(sys.executable, "-m", "uv", "pip", "install", "--python", python, *pinned, wheel)
    checks = "from selfplay.testing import check_game; from coins import Coins; print(check_game(Coins()).nodes)"
    where, nodes = quiet(python, "-c", f"import selfplay; print(selfplay.__file__); {checks}").split()
    assert Path(where).is_relative_to(place) and nodes == "7"
    quiet(installed, *RUN, "hydra.run.dir=run")
    assert len(cli.metrics(mine / "run")) == 2
    quiet(installed, "report", "run")
    assert (mine / "report" / "run" / "report.html").is_file()
    quiet(python, "-c", next(code for code in CODE if "selfplay.train(" in code))
    assert len(cli.metrics(mine / "outputs" / "kuhn")) == 21
    quiet(installed, "steps=0", "hydra.run.dir=zero")  # the embedded models are there


def test_the_dockerfile_has_the_torch_of_the_makefile_and_copies_what_is_there() -> None:
    docker, ignored = ((cli.ROOT / name).read_text() for name in ("Dockerfile", ".dockerignore"))
    pin = re.compile(r"\btorch==([\d.]+)")
    [ours] = pin.findall(docker)
    assert ours in pin.findall((cli.ROOT / "Makefile").read_text())
    assert f"torch=={ours}\n" in (cli.ROOT / "constraints.txt").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE) for name in line.split()]
    assert {"conf", "src", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert (cli.ROOT / name).exists() and f"!{name}\n" in ignored
    [entry] = re.findall(r"^ENTRYPOINT \[\"(.*)\"\]$", docker, re.MULTILINE)
    assert f'{entry} = "selfplay.__main__:main"' in (cli.ROOT / "pyproject.toml").read_text()
