"""A mistake ends in one sentence on stderr that names the thing, the value and the remedy, and leaves nothing half."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfplay.players.language_model import LanguageModel

# what is wrong -> (the arguments, the words that must be in the sentence)
BEFORE: dict[str, tuple[list[str], list[str]]] = {
    "seat of nobody": (["seats.solver=bob"], ["seats.solver is 'bob'", "learner, reference", "choose one"]),
    "seat of no role": (["+seats.jury=learner"], ["seats.jury", "roles: challenger, solver", "~seats.jury"]),
    "no learner": (["seats={challenger:reference,solver:reference}"], ["no role is assigned to", "seats.challenger="]),
    "missing model": (["player.path=/nonexistent"], ["'/nonexistent'", "give a hub id, a folder"]),
    "player without path": (["player=hf"], ["player.path is not set", "set it with player.path=<value>"]),
    "no place for a task": (["game.task=maths"], ["game.task is 'maths'", "use prompts=paper"]),
    "attention": (["player.attention=fast"], ["'fast'", "take one of sdpa"]),
    "missing asset": (["player.path=asset:nope"], ["'asset:nope'", "there are: asset:tiny"]),
    "greedy learner": (["player.temperature=0"], ["player.temperature is 0", "at least 0.01"]),
    "no step": (["steps=-1"], ["steps is -1", "at least 0"]),
    "nothing to do": (["steps=0"], ["steps is 0 and eval is none", "give steps"]),
    "no episode": (["episodes=0"], ["episodes is 0", "at least 1"]),
    "steps in words": (["steps=many"], ["steps is 'many'", "whole number"]),
    "seed in words": (["seed=abc"], ["seed is 'abc'", "whole number"]),
    "no checkpoints": (["checkpoint.every=0"], ["checkpoint.every is 0", "at least 1"]),
    "learning rate": (["update.optimizer.lr=-1"], ["update.optimizer.lr is -1", "above 0"]),
    "dtype": (["player.dtype=float99"], ["player.dtype is 'float99'", "one of float32"]),
    "device": (["device=nowhere"], ["device is 'nowhere'", "cpu, cuda, cuda:0"]),
    "LoRA target": (["player=tiny_lora", "player.lora.target_modules=[nope]"], ["'nope'", "change player.lora"]),
    "unknown parameter": (["+game.anwsers=4"], ["'game' cannot be built", "'anwsers'", "yaml under conf/"]),
    "unknown weight": (["+update.role_weights.jury=2"], ["update.role_weights names 'jury'", "challenger, solver"]),
    "unknown class": (["game._target_=selfplay.games.chess.Chess"], ["'game' cannot be built", "chess"]),
}
DURING: dict[str, tuple[list[str], list[str]]] = {
    "unknown metric": (["optimized_metric=solver/nope"], ["optimized_metric is 'solver/nope'", "solver/reward,"]),
    "reward out of range": (
        ["challenger=spice", "reward=selfjudge"],
        ["challenger=spice needs rewards between 0 and 1", "use reward=verifier"],
    ),
    "missing reward": (["reward=none"], ["needs the score 'reward' of a solver turn", "choose a", "reward=verifier"]),
    "long reply": (["player.max_tokens=100000"], ["player.max_tokens=100000", "context of", "lower player.max_tokens"]),
}


def sentence(ended: cli.Ended) -> str:
    """The only line on stderr."""
    assert ended.code == 1, ended.out
    assert re.fullmatch(r"error: [^\n]+[^.\n]\n", ended.err), ended.err
    return ended.err


@pytest.mark.parametrize("case", BEFORE)
def test_a_mistake_before_the_first_step_leaves_no_folder(case: str, tmp_path: Path) -> None:
    args, words = BEFORE[case]
    told = sentence(cli.run(f"hydra.run.dir={tmp_path / 'run'}", *cli.SMALL, *args))
    assert all(word in told for word in words), told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", DURING)
def test_a_mistake_in_the_first_step_is_kept_with_the_run(case: str, tmp_path: Path) -> None:
    args, words = DURING[case]
    told = sentence(cli.run(f"hydra.run.dir={tmp_path}", *cli.SMALL, *args))
    assert all(word in told for word in words), told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "summary.json"]
    written = cli.summary(tmp_path)
    assert (written["status"], written["steps"]) == ("failed", 0) and told == f"error: {written['reason']}\n"


MISSPELT = {
    "reward=nope": ["reward has no choice 'nope'", "rm", "selfjudge", "verifier"],
    "game=chess": ["game has no choice 'chess'", "dataset", "lsp"],
    "rewrad=rm": ["'rewrad'"],
    "game.anwsers=4": ["'game.anwsers'", "not in struct"],
}


@pytest.mark.parametrize("override", MISSPELT)
def test_a_mistaken_option_is_named_with_what_there_is(override: str, tmp_path: Path) -> None:
    ended = cli.run(f"hydra.run.dir={tmp_path / 'run'}", override)
    assert ended.code == 1 and "Traceback" not in ended.err
    assert all(word in ended.err for word in MISSPELT[override]), ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_with_1_and_says_it_on_stderr_alone(tmp_path: Path) -> None:
    ended = cli.process(f"hydra.run.dir={tmp_path / 'run'}", "steps=-1")
    assert ended == cli.Ended(1, "", "error: steps is -1, but it must be a whole number, at least 0; change it\n")


# --- runs that are there already --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli.finished(tmp_path_factory.mktemp("errors") / "run", *cli.SMALL)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_a_run_is_not_used_for_another(made: Path) -> None:
    before = content(made)
    told = sentence(cli.run(f"hydra.run.dir={made}", *cli.SMALL, "reward=selfjudge"))
    assert f"{made} already holds a run; resume that run, or choose another folder" in told
    assert content(made) == before


def test_resuming_nothing(tmp_path: Path) -> None:
    told = sentence(cli.run(f"resume={tmp_path / 'gone'}"))
    assert "gone is not a run folder" in told and "give the folder that holds a config.yaml" in told
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x93garbage" * 100)


def no_state(path: Path) -> None:
    torch.save({"update": {}}, path)


def another_optimizer(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["update"]["optimizer"]["param_groups"][0]["params"].pop()
    torch.save(state, path)


def wider(path: Path) -> None:
    save_file({name: torch.cat([w, w]) for name, w in load_file(path).items()}, path, {"format": "pt"})


def fewer(path: Path) -> None:
    save_file(dict(list(load_file(path).items())[1:]), path, {"format": "pt"})


BROKEN: list[Any] = [
    *[(file, how) for file in ("model.safetensors", "state.pt") for how in (cut, garbage, Path.unlink)],
    *[("state.pt", no_state), ("state.pt", another_optimizer), ("model.safetensors", wider)],
    ("model.safetensors", fewer),
]


@pytest.mark.parametrize(("file", "how"), BROKEN, ids=[f"{how.__name__}-{file}" for file, how in BROKEN])
def test_a_checkpoint_that_cannot_be_read(copy: Path, file: str, how: Callable[[Path], None]) -> None:
    newest = copy / "checkpoints" / "step-000002"
    how(newest / file)
    before = content(copy)
    told = sentence(cli.run(f"resume={copy}", "steps=3"))
    assert str(newest) in told and ("delete" in told or "resume with" in told), told
    assert content(copy) == before
    shutil.rmtree(newest)  # the remedy
    assert cli.run(f"resume={copy}").code == 0


def test_a_checkpoint_of_another_player(copy: Path, tmp_path: Path) -> None:
    lora = cli.finished(tmp_path / "lora", *cli.SMALL, "player=tiny_lora", "steps=1")
    shutil.copytree(lora / "checkpoints" / "step-000001", copy / "checkpoints" / "step-000003")
    told = sentence(cli.run(f"resume={copy}", "steps=4"))
    assert str(copy / "checkpoints" / "step-000003") in told and "model.safetensors" in told


def test_a_config_that_cannot_be_read(copy: Path) -> None:
    (copy / "config.yaml").write_text("seed: [1\nsteps: 2")
    before = content(copy)
    told = sentence(cli.run(f"resume={copy}"))
    assert f"{copy / 'config.yaml'} is broken" in told and "restore the file" in told
    assert content(copy) == before


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


def test_learning_that_diverges_stops_at_the_last_good_checkpoint(tmp_path: Path) -> None:
    diverging = ["reward=selfjudge", "update.optimizer.lr=1e30", "steps=6"]
    told = sentence(cli.run(f"hydra.run.dir={tmp_path}", *cli.SMALL, *diverging))
    assert "nan" in told and "lower update.optimizer.lr" in told
    written = cli.summary(tmp_path)
    assert written["status"] == "failed" and 1 <= written["steps"] < 6
    last = cli.steps(tmp_path)[-1]
    assert last == f"step-{written['steps']:06d}"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / last)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("method", ["act", "logprobs"])
def test_memory_that_runs_out(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, method, lambda *_: torch.empty(1 << 50))
    told = sentence(cli.run(f"hydra.run.dir={tmp_path}", *cli.SMALL))
    assert told == "error: out of memory in step 1; lower player.batch_size, update.micro_batch or episodes\n"
    assert cli.summary(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("game.answers=0", "answers is 0"),
        ("eval.every=0", "every is 0"),
        ("task.per_cell=22", "task.per_cell is 22"),
        ("eval.temperature=-1", "eval.temperature is -1"),
        ("player.batch_size=0", "batch_size is 0"),
        ("update.micro_batch=0", "micro_batch is 0"),
        ("update.max_grad_norm=null", "update.max_grad_norm is null"),
        ("regularizer.beta=0.1x", "regularizer.beta is '0.1x'"),
        ("+player.lora.lora_dropout=0.1", "lora_dropout is 0.1"),
    ],
)
def test_a_number_out_of_range(override: str, words: str, tmp_path: Path) -> None:
    small = [o for o in cli.SMALL if not o.startswith(("eval", "game.answers"))]
    player = "player=tiny_lora" if "lora" in override else "player=tiny"
    told = sentence(cli.run(f"hydra.run.dir={tmp_path / 'run'}", *small, player, override))
    assert words in told
    assert not (tmp_path / "run").exists()


def test_records_without_a_checkpoint_are_not_wiped(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *cli.SMALL, "steps=3")
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    told = sentence(cli.run(f"resume={run}"))
    assert "records up to step 3 but no checkpoint" in told
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "act", lambda *_: 1 / 0)
    ended = cli.run(f"hydra.run.dir={tmp_path}", *cli.SMALL)
    assert ended.code == 1 and "ZeroDivisionError" in ended.err and "test_errors.py" in ended.err
    assert cli.summary(tmp_path)["status"] == "failed"


def test_a_run_of_an_earlier_version_is_not_resumed(tmp_path: Path) -> None:
    small = ("game=kuhn", "player=tabular", "steps=1", "episodes=2", "eval=none", "optimized_metric=loss")
    folder = cli.finished(tmp_path / "run", *small)
    config = OmegaConf.load(folder / "config.yaml")
    del config["rollout"]
    OmegaConf.save(config, folder / "config.yaml")
    ended = cli.run(f"resume={folder}", "steps=2")
    assert ended.code == 1 and "has no 'rollout' in its config.yaml" in ended.err
