"""8-bit AdamW: its steps are near those of AdamW, its checkpoints are plain and exact, its memory is counted.

All but the last two tests need torchao, which `make` installs into a folder of its own, .venv/torchao.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from torch.nn import Parameter

from selfplay.core import SelfplayError
from selfplay.memory.model import Weight
from selfplay.memory.optimizer_state import optimizer_state
from selfplay.runs import checkpoint
from selfplay.updates import adamw_8bit as module
from selfplay.updates.adamw_8bit import adamw_8bit

APART = cli.ROOT / ".venv" / "torchao"
missing = find_spec("torchao") is None and not APART.is_dir()
real = pytest.mark.skipif(missing, reason="torchao is not installed")
NAME = "selfplay.updates.adamw_8bit.adamw_8bit"
OPTIONS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
SHAPES = ((32, 128), (40, 50), (4096,), (7,))  # of which the first and the third are quantised


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(APART)
    module._kind.cache_clear()


def parameters() -> list[Parameter]:
    torch.manual_seed(0)
    return [Parameter(torch.randn(shape)) for shape in SHAPES]


def steps(some: list[Parameter], optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for number in range(first, last):
        torch.manual_seed(number)
        for p in some:
            p.grad = torch.randn_like(p)
        optimizer.step()


@real
def test_a_step_is_near_adamw() -> None:
    """The first step is exact, because the averages are quantised after it; later ones are near."""
    ours, theirs, start = parameters(), parameters(), parameters()
    optimizers = adamw_8bit(ours, **OPTIONS), torch.optim.AdamW(theirs, **OPTIONS)
    for first, last, apart in ((0, 1, 1e-5), (1, 6, 0.05)):
        for some, optimizer in zip((ours, theirs), optimizers, strict=True):
            steps(some, optimizer, first, last)
        for i, (a, b, c) in enumerate(zip(ours, theirs, start, strict=True)):
            quantised = i in (0, 2)
            far, way = float((a - b).norm().detach()), float((b - c).norm().detach())
            assert far < (apart if quantised else 1e-5) * way
            assert not (quantised and last > 1) or far > 1e-4 * way, "else nothing was quantised"


@real
def test_a_checkpoint_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, half = parameters(), parameters()
    uninterrupted, first = adamw_8bit(whole, **OPTIONS), adamw_8bit(half, **OPTIONS)
    steps(whole, uninterrupted, 0, 6)
    steps(half, first, 0, 3)
    checkpoint._write_state({"optimizer": first.state_dict()}, tmp_path / "state.pt")  # refuses what is not plain
    second = adamw_8bit(half, lr=1.0)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"])
    steps(half, second, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))
    assert type(second.state[half[0]]["exp_avg"]) is type(uninterrupted.state[whole[0]]["exp_avg"]) is not torch.Tensor


@real
@pytest.mark.slow
def test_a_run_resumes_to_the_same(tmp_path: Path) -> None:
    args = (*cli.SMALL, f"update.optimizer._target_={NAME}")
    whole = cli.finished(tmp_path / "whole", *args)
    half = cli.finished(tmp_path / "half", *args, "steps=1")
    cli.finished(half, f"resume={half}", "steps=2")
    assert cli.metrics(whole) == cli.metrics(half)
    assert (whole / "episodes.jsonl").read_text() == (half / "episodes.jsonl").read_text()


@real
def test_its_memory_is_counted() -> None:
    some = parameters()
    optimizer = adamw_8bit(some)
    steps(some, optimizer, 0, 1)
    held = [x for kept in optimizer.state.values() for x in kept.values() if isinstance(x, torch.Tensor)]
    plain = [part for x in held for part in ((x.codes, x.scale, x.qmap) if hasattr(x, "codes") else (x,))]
    counted = optimizer_state(adamw_8bit, [Weight(shape, 4, True) for shape in SHAPES])
    assert counted.bytes(Weight(shape, 4, True) for shape in SHAPES) == sum(x.nbytes for x in plain)
    large = Weight((1024, 1024), 4, True)
    adam = optimizer_state(torch.optim.AdamW, [large])
    assert 5.9 < (adam.bytes([large]) - counted.bytes([large])) / 2**20 < 6


def test_without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    module._kind.cache_clear()
    ended = cli.run(*cli.SMALL, f"update.optimizer._target_={NAME}")
    assert ended.code == 1
    assert "needs the package torchao; install it with: pip install 'selfplay[torchao]'" in ended.err


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DTensor", Parameter)
    with pytest.raises(SelfplayError, match="parallel=fsdp cannot write into checkpoints; take adamw, or parallel=ddp"):
        adamw_8bit(parameters())
