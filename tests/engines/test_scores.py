"""A reward is a function of its pair: the score of each text alone, whoever is beside it, for any architecture."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from architectures import model_of, reward_of, saved
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.engines.scores import Scorer, context_of
from selfplay.referees.reward_model import RewardModel

PAIRS = [("add 3 and 4", "7"), ("", "x"), ("reverse abcd", "it is dcba"), ("add 3 and 4", "8"), ("q" * 90, "a" * 60)]


def alone(referee: RewardModel) -> Tensor:
    ids = [referee.conversations.fitted(pair)[0] for pair in PAIRS]
    with torch.no_grad():
        return torch.cat([referee.model(input_ids=torch.tensor([text])).logits[:, 0] for text in ids])


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("bert", "_padded"),
        ("roberta", "_padded"),
        ("deberta-v2", "_padded"),
        ("electra", "_padded"),
        ("modernbert", "_padded"),
        ("t5", "_padded"),
        ("fnet", "_by_length"),  # knows no mask
        ("mobilebert", "_by_length"),  # reads what stands beside a token, padding too; its scores nearly hide it
        ("qwen3_5_text", "_by_states"),
        ("gpt2", "_by_states"),
    ],
)
def test_a_score_is_that_of_the_pair_alone(kind: str, way: str, tmp_path: Path) -> None:
    saved(kind, tmp_path, reward=True)
    referee = reward_of(tmp_path)
    assert referee.scorer.read.__name__ == way
    torch.testing.assert_close(referee.logits(PAIRS), alone(referee), atol=1e-5, rtol=1e-4)


def test_padding_on_the_left_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("bert", tmp_path, reward=True)
    referee = reward_of(tmp_path)

    def left(self: Scorer, texts: Sequence[tuple[int, ...]]) -> Tensor:
        width = max(map(len, texts))
        ids = torch.tensor([(0,) * (width - len(text)) + text for text in texts])
        return self._logits(ids, attention_mask=(ids != 0).long())

    monkeypatch.setattr(Scorer, "_beside", left)
    assert (referee.logits(PAIRS) - alone(referee)).abs().max() > 1e-2  # the fault is there, ...
    assert reward_of(tmp_path).scorer.read.__name__ == "_by_length"  # ... and the trial finds it


def test_a_model_whose_score_depends_on_its_company_is_refused() -> None:
    model, texts = model_of("bert", reward=True), [(5, 6, 7), (5, 9, 7), (5, 6, 7, 8)]
    model.bert.encoder.layer[0].register_forward_hook(lambda module, given, out: out + out.mean(0, keepdim=True))
    with pytest.raises(SelfplayError, match="BertForSequenceClassification scores a text differently in a batch"):
        Scorer(model, 8, 0, texts, [])


def test_a_model_that_is_not_a_function_is_refused() -> None:
    model, texts = model_of("bert", reward=True), [(5, 6, 7), (5, 9, 7), (5, 6, 7, 8)]
    model.train()
    with pytest.raises(SelfplayError, match="gives one text two different scores"):
        Scorer(model, 8, 0, texts, [])


def test_places_of_a_table_that_cannot_be_used() -> None:
    """RoBERTa's begin behind that of the padding token."""
    model = model_of("roberta", reward=True)
    assert (context_of(model), context_of(model_of("bert", reward=True))) == (511, 512)
    model(input_ids=torch.full((1, 511), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, 512), 5))
