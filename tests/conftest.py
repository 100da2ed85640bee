"""What many tests share: the embedded model, learners made of it, configs, scripted players."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched by a test

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from selfplay.building import make
from selfplay.commandline import arguments
from selfplay.core import Ask, Player, Policy, Referee, Reply, Turn
from selfplay.derived import fill_in
from selfplay.engines.versions import Version
from selfplay.players.language_model import LanguageModel
from selfplay.runs import RunFolder

CONF = Path(__file__).parent.parent / "conf"


class Script(Player):
    """Says what a function of the ask says; keeps what it was asked, call by call."""

    def __init__(self, say: Callable[[Ask], Reply]) -> None:
        self.say = say
        self.calls: list[list[Ask]] = []

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.calls.append(list(asks))
        return [self.say(ask) for ask in asks]


class Fixed(Referee):
    """Gives the numbers that it was given."""

    def __init__(self, scores: Sequence[float] | Tensor, roles: tuple[str, ...] = ()) -> None:
        self.scores, self.roles = torch.as_tensor(scores), roles
        self.seen: list[Turn] = []

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        self.seen = list(turns)
        return self.scores


@pytest.fixture(scope="session", autouse=True)
def no_picture() -> Iterator[None]:
    """The curves cost more than the steps of a small run; the tests that look at them draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.runs.session.draw_curves", lambda metrics, path: path.touch())
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


def config(*overrides: str) -> DictConfig:
    """The config as `run.py` would compose it."""
    return copy.deepcopy(_composed(overrides))


def filled(*overrides: str) -> DictConfig:
    """The same, with what it leaves to its game."""
    cfg = config(*overrides)
    fill_in(cfg, make(cfg.game, "game"))
    return cfg


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", arguments(overrides, [CONF]))


def plain_logprobs(model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """[T] log-probabilities of a reply's tokens by one unpadded call of the model, nothing of ours."""
    ids = torch.tensor([[*prompt, *reply]])
    logp = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    return logp[len(prompt) - 1 : -1].gather(-1, torch.tensor(reply)[:, None])[:, 0]


def perturb(model: PreTrainedModel, scale: float, seed: int = 0) -> None:
    """Move every parameter a little, at random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn(p.shape, generator=generator)


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
