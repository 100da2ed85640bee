"""The program from its command line: in this process, where a run takes a second, or in one of its own."""

import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
SMALL = ("reward=verifier", "eval=none", "episodes=2", "steps=2", "game.answers=2", "player.max_tokens=12")

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched by a test
_STORE = TemporaryDirectory(prefix="selfplay-trackio-")
os.environ["TRACKIO_DIR"] = _STORE.name  # Trackio reads it once, on import


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code and what it said."""

    code: int
    out: str
    err: str


def run(*args: str) -> Ended:
    """`python run.py ARGS`, here: the same file, the same composition, the same exit."""
    out, err, argv = StringIO(), StringIO(), sys.argv
    sys.argv = [str(ROOT / "run.py"), *args]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = -2  # as of a process that the signal ended
    finally:
        sys.argv = argv
    return Ended(code, out.getvalue(), err.getvalue())


def finished(folder: Path, *args: str) -> Path:
    """A run into `folder` that must end well."""
    ended = run(*args, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.err
    assert summary(folder)["status"] == "finished"
    return folder


def composed(*args: str) -> DictConfig:
    """What `python run.py ARGS --cfg job` shows."""
    ended = run(*args, "--cfg", "job")
    assert ended.code == 0, ended.err
    config = OmegaConf.create(ended.out)
    assert isinstance(config, DictConfig)
    return config


def process(*args: str, script: str | None = None, path: Path | None = None) -> Ended:
    """`python run.py ARGS`, or a script in its place, in a process of its own; `path` holds modules to import."""
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), env.get("PYTHONPATH")]))
    program = [str(ROOT / "run.py")] if script is None else ["-c", script]
    command = [sys.executable, *program, *args]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def choices(*groups: str) -> list[str]:
    """`group=name` of every yaml of the given groups, of every group when none is given."""
    found = (path for path in sorted(CONF.glob("*/*.yaml")) if not groups or path.parent.name in groups)
    return [f"{path.parent.name}={path.stem}" for path in found]


def needing(choice: str) -> list[str]:
    """The choice, behind the others without which it means nothing: who solves a meta-game, say, needs a population."""
    group, name = choice.split("=")
    if group == "meta_solver":
        return ["game=kuhn", "opponent=psro", choice]
    if group == "update" and OmegaConf.select(OmegaConf.load(CONF / group / f"{name}.yaml"), "teachers"):
        return ["game=demonstrations", choice]
    if group == "logger":
        return ["game=kuhn", "player=tabular", choice]  # the quickest run there is
    if group == "opponent" or choice in ("player=tabular", "eval=exploitability", "eval=versus", "outcomes=every"):
        return ["game=kuhn", choice]
    return [choice]


def lines(file: Path) -> list[dict[str, Any]]:
    """Every line of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl, with what the clock says left out."""
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines(folder / "metrics.jsonl")]


def summary(folder: Path) -> dict[str, Any]:
    """summary.json, with what the clock says left out."""
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    read.pop("seconds")
    return read


def steps(folder: Path) -> list[str]:
    """The names of a run's checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())
