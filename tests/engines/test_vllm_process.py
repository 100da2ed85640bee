"""The parts of the script for vLLM's environment that need nothing of vLLM, whose modules are empty here.

tests/engines/test_vllm.py runs the script itself.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from language_models import made, same
from servers import Double, serving

from selfplay.engines.server.client import Client
from selfplay.engines.server.transfer import load
from selfplay.models.load import resolve

SCRIPT = "selfplay.engines.server.vllm_process"


class Factory:
    """vLLM's registry of weight-transfer engines."""

    def __init__(self) -> None:
        self.engines: dict[str, type[Any]] = {}

    def register_engine(self, name: str, engine: type[Any]) -> None:
        self.engines[name] = engine


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module, with a registry of its own."""
    transfer, base, platforms = ModuleType("transfer"), ModuleType("base"), ModuleType("platforms")
    transfer.WeightTransferEngineFactory = Factory()  # type: ignore[attr-defined]
    base.WeightTransferEngine = list  # type: ignore[attr-defined]  # any class with parameters
    base.WeightTransferInitInfo = base.WeightTransferUpdateInfo = object  # type: ignore[attr-defined]
    platforms.current_platform = None  # type: ignore[attr-defined]
    for name, module in (("distributed.weight_transfer", transfer), ("distributed.weight_transfer.base", base)):
        monkeypatch.setitem(sys.modules, f"vllm.{name}", module)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    for package in ("vllm", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    yield import_module(SCRIPT)
    sys.modules.pop(SCRIPT)


def test_it_registers_the_engine_that_the_client_speaks_to(script: Any) -> None:
    """What the client sends as update_info is what the engine takes."""
    [engine] = script.WeightTransferEngineFactory.engines.values()
    assert script.WeightTransferEngineFactory.engines == {"folder": script.FolderEngine} and engine.init_info_cls()
    sent: list[dict[str, Any]] = []

    class Recording(Double):
        def answer(self, route: str, body: dict[str, Any]) -> tuple[int, object]:
            sent.extend(info for key, info in body.items() if key == "update_info")
            return super().answer(route, body)

    with serving(Recording()) as double:
        load(Client(double.url, 30.0), Path(resolve("asset:tiny")), "label", begun=False)
    [info] = sent
    assert engine.update_info_cls(**info).folder == resolve("asset:tiny")


def test_tensors_of_all_files_of_a_folder(script: Any, tmp_path: Path) -> None:
    model = made().model
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    found = dict(script.tensors(tmp_path))
    state = model.state_dict()
    assert state.keys() - found.keys() == {"lm_head.weight"}, "it is tied"
    assert all(same(value, state[name]) for name, value in found.items())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no safetensors files in"):
        next(script.tensors(tmp_path / "empty"))


def test_rows_without_an_adapter_stay_as_they_are(script: Any) -> None:
    """The index -1 is the last adapter's for the operation, and none for the one in its place."""

    def expand(
        x: torch.Tensor, weights: torch.Tensor, y: torch.Tensor, indices: torch.Tensor, add: bool = True
    ) -> None:
        found = torch.einsum("bi,boi->bo", x, weights[indices])
        y.copy_(y + found if add else found)

    torch.manual_seed(0)
    x, weights, indices = torch.randn(4, 2), torch.randn(3, 5, 2), torch.tensor([0, -1, 2, -1])
    start = torch.randn(4, 5)
    wrong, right = start.clone(), start.clone()
    expand(x, weights, wrong, indices)
    script.without_base_rows(expand)(x, weights, right, indices, add=True)
    assert same(right[[1, 3]], start[[1, 3]]) and same(right[[0, 2]], wrong[[0, 2]])
    assert not torch.allclose(wrong[1], start[1], atol=0.01)
