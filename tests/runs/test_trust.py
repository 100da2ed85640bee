"""A run's folder that somebody else made runs no code of theirs when it is resumed, played with, exported or read."""

import ast
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest
import yaml
from omegaconf import OmegaConf

from selfplay import crossplay, export_alpaca_eval
from selfplay.core import SelfplayError
from selfplay.runs import load
from selfplay.runs.safe_yaml import read_mapping
from selfplay.runs.trust import COMPONENTS, FUNCTION, KEYED, MACHINERY, SANDBOX, check_targets

SOURCE = Path(cli.ROOT, "src")
TABLE = ("game=kuhn", "player=tabular", "episodes=2", "steps=2", "eval=none", "optimized_metric=loss")
TARGETS = [
    "os.system",
    "joblib.load",
    "pandas.read_pickle",
    "builtins.eval",
    "hydra.utils.get_method",
    "hydra.utils.instantiate",
    "selfplay.building.make",
    "selfplay.crossplay.main",
    "selfplay.games.kuhn.random.seed",
    "selfplay.sandbox.process.main",
    "selfplay.sandbox.confine.call",
    "selfplay.sandbox.sandbox.subprocess.run",
    "selfplay.sandbox.sandbox.os.system",
    "selfplay.runs.checkpoint._remove",
    "selfplay.runs.folder.subprocess.run",
    "selfplay.players.language_model.torch.load",
    "selfplay.updates.gradient_step._rows",
    "selfplay.games.kuhn.Kuhn.play",
    "selfplay.games..Kuhn",
    "selfplay.loggers.Logger",
    "selfplay.tasks.tiny_world.task.Question",
    "torch.load",
    "torch.optim.optimizer.os.system",
    "torch.optim.optimizer.functools.partial",
    "torch.optim.swa_utils.update_bn",
    "torch.hub.load",
    7,
    ["os.system"],
]
PLACES: list[Callable[[Any], dict[str, Any]]] = [
    lambda node: {"player": node},
    lambda node: {"game": {"_target_": "selfplay.games.kuhn.Kuhn", "forfeit": node}},
    lambda node: {"extra_evals": {"x": [[1, {"y": [node]}]]}},
    lambda node: {"logger": {"x": {**node, "_partial_": True, "_args_": ["touch /tmp/x"], "_recursive_": False}}},
    lambda node: {"anything": {"else": {"_target_": "selfplay.games.kuhn.Kuhn", "_args_": [node]}}},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("trust") / "run", *TABLE)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def change(folder: Path, key: str, value: object) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    *above, last = key.split(".")
    node = config
    for name in above:
        node = node[name]
    node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_what_is_no_component_is_refused_wherever_it_is(target: object) -> None:
    for place in PLACES:
        config = OmegaConf.create(place({"_target_": target}))
        with pytest.raises(SelfplayError, match=r"config.yaml, .* calls .* add trust="):
            check_targets(config, Path("config.yaml"))


def test_all_that_the_configs_name_is_allowed() -> None:
    named = {
        found for file in cli.CONF.rglob("*.yaml") for found in re.findall(r"_target_: ([\w.]+)", file.read_text())
    } - {"selfplay.runs.jobs.Jobs", FUNCTION}
    assert len(named) > 80
    for target in named:
        node = {"_target_": target, "isolation": "auto", "key": None}
        check_targets(OmegaConf.create({"x": [node]}), Path("config.yaml"))
    check_targets(OmegaConf.create({"x": {"_target_": "torch.optim.SGD", "lr": 1.0}}), Path("config.yaml"))


def test_a_function_as_a_reward_is_code_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_reward.py").write_text("import os\n\ndef f(prompts, completions):\n    return [0.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("os.system", "my_reward.f", "my_reward.os.system", None):
        node = OmegaConf.create({"reward": {"_target_": FUNCTION, "function": name}})
        with pytest.raises(SelfplayError, match=r"config.yaml, reward.function calls"):
            check_targets(node, Path("config.yaml"))
    mine = OmegaConf.create({"reward": {"_target_": FUNCTION, "function": "my_reward.f"}})
    check_targets(mine, Path("config.yaml"), ["my_reward"])
    with pytest.raises(SelfplayError, match=r"reward.function calls my_reward.os.system"):
        node = OmegaConf.create({"reward": {"_target_": FUNCTION, "function": "my_reward.os.system"}})
        check_targets(node, Path("config.yaml"), ["my_reward"])


def test_what_reaches_beyond_this_process_needs_a_word() -> None:
    secrets = [{"_target_": target, "key": "AWS_SECRET_ACCESS_KEY", "url": "http://evil"} for target in KEYED]
    told = "AWS_SECRET_ACCESS_KEY to http://evil"
    code = [
        {"_target_": SANDBOX, **how} for how in ({}, {"isolation": "none"}, {"isolation": "${x}"}, {"isolated": True})
    ]
    for node, word in (*((c, "without isolation") for c in code), *((secret, told) for secret in secrets)):
        with pytest.raises(SelfplayError, match=word):
            check_targets(OmegaConf.create({"task": node}), Path("config.yaml"))
        module = str(node["_target_"]).rpartition(".")[0]
        check_targets(OmegaConf.create({"task": node}), Path("config.yaml"), [module])


CALLS = {
    "exec",
    "__import__",
    "import_module",
    "instantiate",
    "get_method",
    "get_class",
    "get_object",
    "system",
    "popen",
}


def test_no_component_calls_what_a_config_names() -> None:
    """Nothing inside the components turns a string into code, loads a pickle or starts a program."""
    found = []
    for name in COMPONENTS:
        path = SOURCE / name.replace(".", "/")
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
            if module in MACHINERY:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    if called.rpartition(".")[2] in CALLS or called in ("eval", "torch.load", "np.load"):
                        found.append(f"{module}: {called}")
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    found += [f"{module}: {x}" for x in names if x in ("pickle", "joblib", "runpy", "importlib")]
    assert found == []


class Bomb:
    """Leaves a mark when it is made."""

    def __init__(self, file: str) -> None:
        Path(file).touch()


@pytest.mark.parametrize("program", ["resume", "crossplay", "export"])
def test_nobody_runs_it(copy: Path, program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "mark"
    change(copy, "probes.truth", {"_target_": "test_trust.Bomb", "file": str(mark)})
    change(copy, "player.seed", 0)
    if program == "resume":
        ended = cli.run(f"resume={copy}", "steps=3")
        code, said = ended.code, ended.err
    else:
        questions = tmp_path / "questions.json"
        questions.write_text('[{"instruction": "1+1?"}]')
        arguments = [str(copy), "--questions", str(questions), "--out", str(tmp_path / "out.json")]
        main = crossplay.main if program == "crossplay" else export_alpaca_eval.main
        with pytest.raises(SystemExit) as end:
            main([str(copy)] if program == "crossplay" else arguments)
        code, said = int(str(end.value.code)), capsys.readouterr().err
    assert code == 1 and not mark.exists()
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "test_trust.Bomb, which is not a component of selfplay" in said and "trust=test_trust" in said


GAME = """
import os
from selfplay.games.kuhn import Kuhn as Theirs
class Kuhn(Theirs):
    pass
"""


def test_a_game_of_one_s_own_is_gone_on_with_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_kuhn.py").write_text(GAME)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = cli.finished(tmp_path / "run", *TABLE, "game._target_=own_kuhn.Kuhn")
    refused = cli.run(f"resume={folder}", "steps=3")
    assert refused.code == 1 and "game calls own_kuhn.Kuhn" in refused.err and "trust=own_kuhn " in refused.err
    went_on = cli.run(f"resume={folder}", "steps=3", "trust=own_kuhn")
    assert went_on.code == 0 and cli.summary(folder)["steps"] == 3, went_on.err
    crossplay.main([str(folder), "--games=2", "--trust=own_kuhn"])
    change(folder, "game._target_", "own_kuhn.os.system")
    refused = cli.run(f"resume={folder}", "steps=4", "trust=[own_kuhn]")
    assert refused.code == 1 and "own_kuhn.os.system, which is defined in posix, not in own_kuhn" in refused.err
    assert sys.modules.pop("own_kuhn")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DAMAGED = {
    "empty": ("", "holds nothing"),
    "a list": ("- 1\n- 2\n", "holds a list"),
    "a number": ("5\n", "is broken|holds"),
    "aliases": (BOMB, "an alias in line 2"),
    "a tag": ("a: !!python/object/apply:os.system [ls]\n", "the tag"),
    "a binary": ("a: !!binary aGk=\n", "the tag"),
    "an interpolation": ("a: ${oc.env:HOME}\n", "an interpolation in line 1"),
    "an escaped one": ("a: \\${oc.env:HOME}\n", "an interpolation in line 1"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "more than 64 levels"),
    "torn": ("a: {b: [1, 2", "is broken"),
    "a large number": ("a: " + "1" * 5000, "is broken"),
    "half a character": (b"a: \xff\xfe\n", "is broken"),
    "large": ("# " + "x" * (2**23 + 1), "larger than 8 MiB"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_config_is_one_sentence_for_everybody(
    copy: Path, run: Path, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, words = DAMAGED[name]
    file = copy / "config.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SelfplayError, match=words) as told:
        read_mapping(file)
    assert "\n" not in str(told.value) and len(str(told.value)) < 600
    ended = cli.run(f"resume={copy}")
    assert ended.code == 1 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    with pytest.raises(SystemExit):
        crossplay.main([str(copy)])
    assert capsys.readouterr().err.count("\n") == 1
    shutil.copytree(run, tmp_path / "good")
    found = load(tmp_path).runs.set_index("run")
    assert found.loc["good", "status"] == "finished"
    assert found.loc["copy", "status"] == "broken" and file.name in found.loc["copy", "reason"]


def test_the_environment_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cr3t")
    for text in ("${oc.env:SECRET}", "\\${oc.env:SECRET}", "x ${oc.decode:${oc.env:SECRET}}"):
        change(copy, "optimized_metric", text)
        ended = cli.run(f"resume={copy}", "steps=3")
        assert ended.code == 1 and "interpolation" in ended.err and "s3cr3t" not in ended.out + ended.err
    assert "s3cr3t" not in "".join(p.read_text(errors="replace") for p in copy.rglob("*") if p.is_file())
    assert os.environ["SECRET"] == "s3cr3t"
