"""Runs whose weights are of every kind: trained, resumed, met again in populations, evaluated elsewhere."""

import json
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from architectures import saved
from configs import config
from language_models import batch_of, logprobs, made, same
from omegaconf import DictConfig, ListConfig, OmegaConf

from selfplay import crossplay, export_alpaca_eval
from selfplay.building import make, others_of
from selfplay.core import SelfplayError
from selfplay.evaluations.answers import answers
from selfplay.runs import RunFolder
from selfplay.runs.players import Choice, last_policy, policies

KUHN = ("game=kuhn", "player=tiny_lora", "regularizer=none", "eval=none", "episodes=4", "update.optimizer.lr=0.01")
LISTS = (
    "player.lora.target_modules=[q_proj,v_proj,up_proj]",
    "+player.lora.exclude_modules=[up_proj]",
    "+player.lora.rank_pattern={q_proj:2}",
    "+player.lora.alpha_pattern={v_proj:8}",
    "+player.lora.layers_to_transform=[0,1]",
    "+player.lora.modules_to_save=[norm]",
    "+player.chat={custom:[a,b]}",
)


def alike(one: Any, other: Any) -> bool:
    """Whether two states hold the same: the bytes of a pickle say which of its strings were one object, too."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def flip(file: Path) -> None:
    """One bit of a file, in its middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def resumed_and_met(folder: Path, args: tuple[str, ...]) -> tuple[Path, Path]:
    """A run of two steps resumed to three, which equals one of three, and whose past selves meet; both runs."""
    whole = cli.finished(folder / "whole", *args, "steps=3")
    run = cli.finished(folder / "run", *args, "steps=2")
    ended = cli.run(f"resume={run}", "steps=3")
    assert ended.code == 0, ended.err
    assert cli.metrics(run) == cli.metrics(whole)
    states = [torch.load(path / "checkpoints/step-000003/state.pt", weights_only=True) for path in (run, whole)]
    assert alike(*states)
    crossplay.main([str(run), "--population", "--games", "2"])
    names = json.loads((run / "crossplay" / "crossplay.json").read_text())["names"]
    assert {"base", "step-000003", "population/step-000001"} <= set(names)
    return run, whole


@pytest.mark.parametrize(
    "player",
    [
        pytest.param(LISTS, id="lists"),
        pytest.param(("+player.lora.use_dora=true",), id="dora", marks=pytest.mark.slow),
        pytest.param(("+player.lora.init_lora_weights=pissa_niter_2",), id="pissa", marks=pytest.mark.slow),
    ],
)
def test_adapters_of_every_kind_resume_and_meet_again(player: tuple[str, ...], tmp_path: Path) -> None:
    args = (*KUHN, *player, "opponent=uniform", "opponent.every=1")
    run, whole = resumed_and_met(tmp_path, args)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run / "checkpoints/step-000003" / name).read_bytes() == (
            whole / "checkpoints/step-000003" / name
        ).read_bytes()
    found = RunFolder.open(run)
    _, players = policies(found, "", Choice(population=True))
    batch = batch_of(players["base"])  # type: ignore[arg-type]
    lines = [logprobs(players[name], batch) for name in ("base", "population/step-000001", "step-000003")]  # type: ignore[arg-type]
    assert not same(lines[0], lines[1]) and not same(lines[1], lines[2])
    assert same(logprobs(last_policy(found, {}), batch), lines[2])  # type: ignore[arg-type]


def test_a_mixture_of_experts_resumes_and_meets_again(tmp_path: Path) -> None:
    """Its weights are converted as they are saved."""
    saved("qwen3_moe", tmp_path / "model")
    args = (*KUHN, "player=hf", f"player.path={tmp_path / 'model'}", "opponent=uniform", "opponent.every=1")
    resumed_and_met(tmp_path, args)


def test_constructors_get_plain_python(tmp_path: Path) -> None:
    """Whatever a yaml says: the config's own containers are no lists and dicts, and JSON refuses them."""
    node = {"_target_": "builtins.dict", "a": [1, {"b": ["${c}"]}], "d": {"e": [2]}}
    nested = {"_target_": "builtins.dict", "x": node, "y": {"_target_": "builtins.dict", "_partial_": True, "z": [3]}}
    found = make(OmegaConf.create({"c": 5, "n": nested}).n, "part")
    assert found["x"] == {"a": [1, {"b": [5]}], "d": {"e": [2]}} and found["y"]() == {"z": [3]}

    def check(value: Any) -> None:
        assert not isinstance(value, DictConfig | ListConfig)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(part)

    check(found)
    check(found["y"].keywords)
    player = make(config("player=tiny_lora", "player.stop=[x]", *LISTS).player, "player")
    player.save(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == ["q_proj", "up_proj", "v_proj"] and written["rank_pattern"] == {"q_proj": 2}


# --- an adapter's folder, wherever a model may be named ---------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run with an adapter."""
    run = cli.finished(tmp_path_factory.mktemp("trained") / "run", *KUHN, "steps=2")
    return run / "checkpoints" / "step-000002"


@pytest.mark.parametrize("player", ["tiny", "tiny_lora"])
def test_a_checkpoint_is_evaluated(trained: Path, player: str, tmp_path: Path) -> None:
    what = ("task.per_cell=1", f"player={player}", f"player.path={trained}")
    ended = cli.run("steps=0", *what, f"hydra.run.dir={tmp_path / 'eval'}")
    assert ended.code == 0, ended.err
    policy = made(lora={"r": 16, "lora_alpha": 32, "target_modules": "all-linear"})
    policy.load(trained)
    mine = make(config(*what).player, "player")
    batch = batch_of(policy)
    assert same(logprobs(mine, batch), logprobs(policy, batch)) and not same(logprobs(made(), batch), batch.logprobs)


def test_training_goes_on_from_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *KUHN, "steps=1", f"player.path={trained}", "update.optimizer.lr=1e-9")
    first, last = (made(path=str(path)) for path in (trained, run / "checkpoints" / "step-000001"))
    batch = batch_of(first)
    assert float((logprobs(last, batch) - logprobs(first, batch)).abs().max()) < 1e-4
    assert float((logprobs(made(), batch) - logprobs(first, batch)).abs().max()) > 1e-2
    ended = cli.run(f"resume={run}", "steps=2")
    assert ended.code == 0, ended.err
    crossplay.main([str(run), "--games", "2"])


def test_a_checkpoint_is_an_opponent(trained: Path) -> None:
    cfg = config(*KUHN)
    OmegaConf.update(cfg, "players.other", {**cfg.player, "path": str(trained), "lora": None}, force_add=True)
    other = others_of(cfg)["other"]
    policy = made(path=str(trained), batch_size=other.rows.most)  # type: ignore[attr-defined]
    batch = batch_of(policy)
    assert same(logprobs(other, batch), logprobs(policy, batch))  # type: ignore[arg-type]


def test_a_checkpoint_answers_for_alpaca_eval(trained: Path, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.json", tmp_path / "out.json"
    questions.write_text(json.dumps([{"instruction": "add 3 and 4"}]))
    export_alpaca_eval.main([str(trained), "--questions", str(questions), "--out", str(out), "--max-tokens", "8"])
    [answer] = json.loads(out.read_text())
    policy = made(path=str(trained), choose="text", max_tokens=8).with_temperature(0.0)
    assert answer["output"] == answers(policy, ["add 3 and 4"], "alpaca_eval")[0]


def test_what_contradicts_an_adapter_is_refused(trained: Path, tmp_path: Path) -> None:
    ended = cli.run(*KUHN, f"player.path={trained}", "player.lora.lora_alpha=8", f"hydra.run.dir={tmp_path}")
    assert ended.code == 1 and "does not fit player.lora (lora_alpha is 32 there and 8 here)" in ended.err


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_told_wherever_it_is_read(tmp_path: Path) -> None:
    run = cli.finished(tmp_path / "run", *KUHN, "player=tiny", "opponent=uniform", "opponent.every=1", "steps=2")
    step, member = run / "checkpoints" / "step-000002", run / "population" / "step-000001"
    flip(step / "model.safetensors")
    told = "model.safetensors is broken (its digest differs from the one in SHA256SUMS)"
    ended = cli.run(f"resume={run}", "steps=3")
    assert ended.code == 1 and f"{step}/{told}; delete {step}" in ended.err
    with pytest.raises(SelfplayError, match=r"broken \(its digest"):
        last_policy(RunFolder.open(run), {})
    with pytest.raises(SelfplayError, match=r"broken \(its digest"):
        policies(RunFolder.open(run), "", Choice())
    with pytest.raises(SelfplayError, match=r"broken \(its digest"):
        made(path=str(step))
    flip(step / "model.safetensors")
    flip(member / "model.safetensors")
    ended = cli.run(f"resume={run}", "steps=3")
    assert ended.code == 1 and f"{member}/{told}" in ended.err
    flip(member / "model.safetensors")
    assert cli.run(f"resume={run}", "steps=3").code == 0
