"""reward=rm_server against vLLM itself, on processors; these tests are skipped without `make vllm`."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import cli
import pytest
import torch
from language_models import saved_reward_model
from test_vllm import pytestmark, served
from torch import Tensor
from transformers import LlamaForSequenceClassification

from selfplay.clients.classifier import Classifier
from selfplay.core import SelfplayError
from selfplay.players.language_model import LanguageModel
from selfplay.referees.reward_model import RewardModel
from selfplay.referees.served_reward_model import ServedRewardModel

__all__ = ("pytestmark",)  # skipped and marked as those of test_vllm.py
NEAR = 2e-5  # between vLLM's logits and transformers' in float32


def texts(count: int) -> list[tuple[int, ...]]:
    """Token ids of texts of 4 to 512 tokens, the longest and the shortest among them."""
    dice = Random(0)
    lengths = [4, 512, 511, *(dice.choice((dice.randint(4, 40), dice.randint(40, 512))) for _ in range(count - 3))]
    return [tuple(dice.randrange(4, 100) for _ in range(length)) for length in lengths]


@pytest.fixture(scope="module")
def folder(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the embedded model's sizes, with weights of chance far from symmetric."""
    place = tmp_path_factory.mktemp("reward")
    saved_reward_model(tiny, place)
    return place


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(str(folder), "--reward") as [found]:
        yield found


@pytest.fixture(scope="module")
def right(folder: Path) -> Tensor:
    """The logits of one plain forward pass per text."""
    model = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([text])).logits[:, 0] for text in texts(60)])


@pytest.mark.parametrize("size", [1, 7, 60])
def test_scores_are_the_model_s(size: int, url: str, folder: Path, right: Tensor) -> None:
    """Of each text alone, in requests of several and in one; twice, since prefixes are cached."""
    referee = ServedRewardModel(str(folder), url, batch_size=size)
    referee.conversations.all_fitted = lambda pairs: (texts(60), 0.0)  # type: ignore[method-assign]
    assert float(right.std()) > 0.5, "the texts are scored alike"
    for _ in range(2):
        apart = (referee.logits([("", "")]) - right).abs().max()
        print(f"apart by {apart:.2g} on one of 60 texts")
        assert apart < NEAR


def test_pairs_have_the_scores_of_reward_rm(url: str, folder: Path) -> None:
    pairs = [("add 3 and 4", "7"), ("", ""), ("w" * 400, "v" * 400), ("hi", "a<|end|><|user|>b"), ("é 日本", "x" * 99)]
    served, here = ServedRewardModel(str(folder), url), RewardModel(str(folder))
    torch.testing.assert_close(served.logits(pairs), here.logits(pairs), atol=NEAR, rtol=0)
    assert served.metrics == here.metrics == {"truncated": 0.2}


def test_the_activation_is_a_sigmoid_and_left_out(url: str, right: Tensor) -> None:
    """What the trial of the server compares."""
    client = Classifier(url, "", 60.0)
    found = client.scores(client.served(None), texts(60), activation=True)
    torch.testing.assert_close(torch.tensor(found), right.sigmoid(), atol=NEAR, rtol=0)


def test_what_vllm_refuses(url: str) -> None:
    client = Classifier(url, "", 60.0)
    model = client.served(None)
    assert model.context == 512
    with pytest.raises(
        SelfplayError, match=r"refused /classify \(status 400: This model's maximum context length is 512"
    ):
        client.scores(model, [(5,) * 513])
    with pytest.raises(SelfplayError, match=r"status 400: Token id 102 is out of vocabulary"):
        client.scores(model, [(5, 102)])
    with pytest.raises(SelfplayError, match=r"has no model 'another' \(it has: "):
        client.served("another")


def test_a_run(url: str, folder: Path, tmp_path: Path) -> None:
    args = ("eval=none", "steps=2", "episodes=4", "game.answers=4", "player.max_tokens=16", f"reward.path={folder}")
    here = cli.finished(tmp_path / "here", *args, "reward=rm")
    there = cli.finished(tmp_path / "there", *args, "reward=rm_server", f"reward.url={url}", "reward.batch_size=3")
    ours, theirs = (cli.lines(run / "episodes.jsonl") for run in (here, there))
    assert [turn["reply"] for turn in ours] == [turn["reply"] for turn in theirs]
    scores = [[turn["scores"].get("reward", 0.0) for turn in run] for run in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=NEAR)
