"""Fixtures: the embedded model, a learner of its architecture, a run folder."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched by a test

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from selfplay.engines.versions import Version
from selfplay.players.language_model import LanguageModel
from selfplay.runs import RunFolder


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection, which otherwise passes over a million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compositions(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for composed configs that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compositions"
    folder.mkdir(exist_ok=True)
    cli.COMPOSED[:] = [folder]


@pytest.fixture(scope="session", autouse=True)
def no_picture() -> Iterator[None]:
    """The curves cost more than the steps of a small run; the tests that look at them draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.runs.session.draw_curves", lambda metrics, path, *_: path.touch())
        yield


@pytest.fixture(scope="session", autouse=True)
def one_composition() -> Iterator[None]:
    """Hydra composes a config a second time to see whether it sets `hydra.mode`, which only a command line here would;
    the runs in processes of their own leave it as it is."""
    real = Hydra.get_mode

    def get_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return real(self, config_name, overrides) if any("hydra.mode" in o for o in overrides) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", get_mode)
        yield


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """The embedded model, for everybody: not to be changed."""
    return LanguageModel("asset:tiny", max_tokens=48, batch_size=512)


@pytest.fixture
def learner(tiny: LanguageModel) -> LanguageModel:
    """The embedded model's architecture and tokenizer with weights of chance, always the same; may be changed."""
    twin = copy.copy(tiny)
    sizes = copy.deepcopy(tiny.model.config)
    sizes.initializer_range = 0.05  # far from uniform
    with torch.random.fork_rng():
        torch.manual_seed(0)
        twin.model = AutoModelForCausalLM.from_config(sizes, dtype=torch.float32).eval()
    twin.model.generation_config = copy.deepcopy(tiny.model.generation_config)
    twin.version = Version(twin.model)
    return twin


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = OmegaConf.create({"seed": 3, "game": {"seed": "${seed}", "answers": 4}, "steps": 9})
    return RunFolder.create(tmp_path / "deep" / "run", config)
