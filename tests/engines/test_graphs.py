"""Recorded token steps, with a stand-in for CUDA graphs that runs the recorded operations again on the same memory."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cli
import pytest
import torch
from language_models import SIZES, moved, perturb, sampled
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from selfplay.core import Ask, user
from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.llama import graphs
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.trial import can_capture
from selfplay.players.language_model import LanguageModel

made_graphs: list["Graph"] = []


class Graph(TorchDispatchMode):
    """As `torch.cuda.CUDAGraph`: a recording of operations, which replays them on the tensors that they had."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        made_graphs.append(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            for was, now in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if was.untyped_storage().data_ptr() != now.untyped_storage().data_ptr():
                    was.copy_(now)


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_cuda` itself, with PyTorch's parts replaced."""
    made_graphs.clear()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, part in {
        "Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda s: nullcontext(),
        "CUDAGraph": Graph, "graph": lambda graph: graph,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, part)


def of(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    perturb(model, 0.1)
    return model


class Endless(LanguageModel):
    stop_ids = property(lambda self: (-1,))  # type: ignore[assignment]


TEXTS = [tuple(range(2, 2 + n)) for n in (9, 9, 9, 4, 4, 30, 30, 9)]


@pytest.mark.parametrize("rows", [8, 3], ids=["at once", "refilled"])
@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen3Config(**SIZES, head_dim=16)], ids=["llama", "qwen 3"])
def test_replies_are_those_without_recordings(config: Any, rows: int) -> None:
    """Ragged prompts, several replies behind some, which end at different times and make room for others."""
    model = of(config)
    keys = [str(i) for i in range(len(TEXTS))]
    found = [
        sampled(Decoder(model, torch.float32, capture=by), TEXTS, keys, 1.0, 70, range(3), 0, rows)
        for by in (graphs.on_cuda, None)
    ]
    for ours, theirs in zip(*found, strict=True):
        assert ours.ids == theirs.ids and ours.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)
    assert len({len(one.ids) for one in found[1]}) > 3
    steps = sum(graph.replays for graph in made_graphs)
    assert len(made_graphs) > 2 and steps > 3 * len(made_graphs)


def test_a_recording_is_made_where_it_is_worth_one() -> None:
    """By hand: two steps for rows that just came, none for the last three columns of a block."""
    asked: list[int] = []
    recorded = graphs.RecordedSteps(lambda compute: lambda: compute())
    state: Any = SimpleNamespace(now=0, new=torch.zeros(1, 1, 1, 8, 1))
    state.fixed_step = lambda tokens, now: (asked.append(int(now)), tokens)[1]

    def step(now: int) -> bool:
        state.now = now
        tokens = torch.tensor([now])
        out = recorded.step(state, tokens)
        assert out is None or (int(out) == now and asked[-1] == now)
        return out is not None

    assert [step(now) for now in range(8)] == [False, False, *[True] * 6]
    recorded.cache_moved()
    assert not step(5) and step(4)
    recorded.rows_moved()
    assert [step(now) for now in (0, 1, 2)] == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_right_recordings_are_taken(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(compute: Any) -> Any:
        out = compute()
        return lambda: out

    def verdict(capture: Any) -> bool:
        monkeypatch.setattr("selfplay.engines.llama.trial.capture_on", lambda device: capture)
        return can_capture(of(LlamaConfig(**SIZES)), dtype)

    assert verdict(graphs.on_cuda) and not verdict(stale) and not verdict(None)
    fixed = graphs.RecordedSteps.step
    monkeypatch.setattr(graphs.RecordedSteps, "step", lambda self, state, tokens: fixed(self, state, 0 * tokens))
    assert not verdict(graphs.on_cuda)


def test_new_weights_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trial", "graphs"):
        monkeypatch.setattr(f"selfplay.engines.llama.{module}.capture_on", lambda device: graphs.on_cuda)
    monkeypatch.setattr("selfplay.engines.embedded.capture_on", lambda device: graphs.on_cuda)
    asks = [Ask("solver", user(f"{i} + 4?"), key=str(i)) for i in range(6)]
    given: dict[str, Any] = {"path": "asset:tiny", "max_tokens": 24}
    policies = [Endless(**given, engine=EmbeddedEngine(cuda_graphs=on)) for on in (True, False)]
    assert can_capture(policies[0].model, torch.float32)
    for seed in range(2):
        made_graphs.clear()
        ours = policies[0].act(asks)
        assert sum(graph.replays for graph in made_graphs) > 10
        made_graphs.clear()
        theirs = policies[1].act(asks)
        assert not made_graphs, "nobody asked for them"
        assert [one.reply_ids for one in ours] == [one.reply_ids for one in theirs]
        for policy in policies:
            moved(policy, seed)


def test_a_run_without_cuda_says_so(tmp_path: Path) -> None:
    ended = cli.run(*cli.SMALL, "engine.cuda_graphs=true", "steps=1", f"hydra.run.dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert ended.out.count("note: token steps cannot be recorded on cpu; engine.cuda_graphs is false from now on") == 1
