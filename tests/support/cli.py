"""The program from its command line: in this process, where a run takes a second, or in one of its own."""

import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import configs
import judges
import reward_servers
import stored
from chat_models import stand_in
from omegaconf import DictConfig, OmegaConf

from selfplay import interrupts
from selfplay.core import SelfplayError
from selfplay.sandbox.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
SMALL = ("reward=verifier", "eval=none", "episodes=2", "steps=2", "game.answers=2", "player.max_tokens=12")

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched by a test
COMPOSED: list[Path] = []  # a folder for compositions, set by conftest
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
    interrupts.forget()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, *interrupts.AFTER_STEP)}
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
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(code, out.getvalue(), err.getvalue())


def finished(folder: Path, *args: str) -> Path:
    """A run into `folder` that must end well."""
    ended = run(*args, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.err
    assert summary(folder)["status"] == "finished"
    return folder


def composed(*args: str) -> DictConfig:
    """What `python run.py ARGS --cfg job` shows."""
    config = OmegaConf.create(_shown(args))
    assert isinstance(config, DictConfig)
    return config


@cache
def _shown(args: tuple[str, ...]) -> str:
    """Composed once by all processes of a test run, since it takes a third of a second."""
    path = COMPOSED[0] / f"{blake2b(repr(args).encode()).hexdigest()[:32]}.yaml" if COMPOSED else None
    if path is not None and path.is_file():
        return path.read_text()
    ended = run(*args, "--cfg", "job")
    assert ended.code == 0, ended.err
    if path is not None:
        own = path.with_suffix(f".{os.getpid()}")
        own.write_text(ended.out)
        own.replace(path)
    return ended.out


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


def needing(choice: str, *more: str) -> list[str]:
    """The choice, behind the others without which it means nothing, and `more`: a meta-solver needs a population.

    Whatever model lies on a hub, or is made on the user's machine, has a small one of weights of chance in its place,
    and Alpaca a few lines of its form.
    """
    args = [*_behind(choice), *more]
    config = configs.config(*args)
    args += [f"++{where}.path={stand_in(reward)}" for where, reward in elsewhere(OmegaConf.to_container(config))]
    if OmegaConf.select(config, "task.source.path") == "tatsu-lab/alpaca":
        args += [f"task.source.path={stored.path('alpaca')}", "task.held_out_share=0.2"]
    return args


def elsewhere(node: Any, where: str = "") -> Iterator[tuple[str, bool]]:
    """Every part of a config that names a model which is not in this package, and whether it is a reward model."""
    if not isinstance(node, dict):
        return
    kind = str(node.get("_target_", "")).rsplit(".", 1)[-1]
    if kind in ("LanguageModel", "RewardModel") and not str(node["path"]).startswith("asset:"):
        yield where, kind == "RewardModel"
    for key, value in node.items():
        yield from elsewhere(value, f"{where}.{key}".lstrip("."))


def _behind(choice: str) -> list[str]:
    group, name = choice.split("=")
    if group == "prompts" or choice == "quality=selfjudge_rubric":
        return ["player=hf", choice]  # longer than the embedded model can read
    if group == "meta_solver":
        return ["game=kuhn", "opponent=psro", choice]
    if group == "update" and OmegaConf.select(OmegaConf.load(CONF / group / f"{name}.yaml"), "teachers"):
        return ["game=demonstrations", choice]
    if choice == "update=cql":
        return ["game=kuhn", "player=q_table", choice]
    if group == "logger":
        return ["game=kuhn", "player=tabular", choice]  # the quickest run there is
    if group == "data":
        small = [] if choice == "data=none" else ["players.nature.size=8"]
        return ["game=demonstrations", choice, *small]  # some strategies read demonstrations
    if choice == "rollout=replayed":
        log = [f"rollout.run={stored.log()}", "seats.solver=logged"]
        return ["game=dataset", "reward=verifier", "update=dpo", choice, *log]
    if group == "endpoint":
        return ["reward=judge", f"endpoint@reward.endpoint={choice.split('=')[1]}"]
    if choice in ("reward=code", "task=programs"):  # a Challenger does not ask for programs
        reward = choice if group == "reward" else "reward=verifier"
        where = "reward" if reward == "reward=code" else "task.sandbox"
        return ["game=dataset", "task=programs", reward, f"{where}.isolation={isolation()}"]
    if choice == "reward=edited_labels":
        return ["game=views", choice]
    if choice == "reward=function":
        return [choice, "reward.function=stored.by_length"]
    if choice == "reward=rm_server":
        return [choice, f"reward.url={reward_servers.stand_in()}"]
    if choice.startswith("reward=judge"):  # somebody must be there to judge
        return [choice, f"reward.endpoint.url={judges.stand_in()}", "reward.endpoint.cache=null"]
    if choice in ("game=preferences", "task=preferences"):  # pairs have no answers to verify
        return ["game=preferences", *stored.needed("preferences")]
    if group == "task":
        return [choice, *stored.needed(choice.removeprefix("task="))]
    if choice == "eval=ifbench":
        return [choice, "eval.task.longest=200"]  # what the embedded model's context holds
    tables = ("player=tabular", "player=q_table", "rollout=exact")
    if group == "opponent" or choice in (*tables, "eval=exploitability", "eval=versus", "eval=response"):
        return ["game=kuhn", choice]
    return [choice]


def shrunk(choice: str) -> list[str]:
    """The choice of a group and what makes its run small, from what its own config holds."""
    more = []
    if choice.startswith("challenger="):
        more.append("reward=verifier")  # some of them need rewards in [0, 1]
    if choice.startswith("task=") and choice != "task=preferences":
        more += ["game=dataset", f"reward={'rm' if choice == 'task=alpaca' else 'verifier'}"]
    if not choice.startswith(("eval=", "experiment=")):
        more.append("eval=none")
    args = needing(choice, *more)
    config = configs.filled(*args)
    args += ["steps=1", "episodes=2"]
    nature = config.players.get("nature") or {}
    long = "strategy" in nature or "likelihood" in {*config.extra_evals, choice.removeprefix("eval=")}
    longest = 32 if long else 12  # strategies and likelihoods read demonstrations
    args += [f"player.max_tokens={longest}"] if "max_tokens" in config.player else []
    args += ["game.answers=2"] if config.game.get("answers") else []
    # a round is one step, with all turns
    args += ["update.hoard=1", "update.room=1", "update.groups=0"] if "hoard" in config["update"] else []
    args += ["update.order=null"] if config["update"].get("order") else []
    args += ["quality.max_tokens=12"] if config.quality is not None and "max_tokens" in config.quality else []
    if "neighbours" in (config.reward or {}):
        args.append("reward.neighbours=3")  # of six views
    if choice == "opponent=league":
        args.append("opponent.exploit=0")  # one step is no whole period of a league with an exploiter
    if config.eval is not None and choice.startswith(("eval=", "experiment=")):
        args += ["eval.episodes=2"] if "episodes" in config.eval else []
        for few in ("per_cell", "per_level"):
            args += [f"task.{few}=1"] if few in config.task and "task" in config.eval else []
        args += ["eval.task.held_out=2"] if "held_out" in config.eval.get("task", {}) else []
    return args


def isolation() -> str:
    """Code is run within limits alone where this kernel or container does not let us isolate it.

    Only success is remembered: a test that is under way may have taken the means away.
    """
    try:
        _isolated()
    except SelfplayError as error:
        warnings.warn(f"code is not isolated: {error}", stacklevel=2)
        return "none"
    return "auto"


@cache
def _isolated() -> None:
    Sandbox(seconds=30.0, megabytes=512, file_megabytes=16).run("", ("assert True",))


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
