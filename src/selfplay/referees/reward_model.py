"""Trained reward models, which map a question and an answer to a scalar."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.engines.scores import Scorer, context_of
from selfplay.models.adapters import judging
from selfplay.models.base_model import config_at, load_base, tokenizer_at
from selfplay.options import Count, Dtype, Name
from selfplay.referees.conversations import Conversations
from selfplay.referees.deduplicate import Pair, score_deduplicated


class RewardModel(Referee):
    """The logit of a Bradley-Terry reward model (sequence classification, one label) on the chat-templated pair.

    Args:
        path: hub id, folder, or `asset:<name>` of a model or a LoRA adapter.
        batch_size: pairs per forward pass.
        chat: extra variables for the chat template.
        truncate: whether to shorten a pair that exceeds the model's context, first at the end of the answer, then of
            the question; their fraction is logged as `<score>/truncated`. If false, such a pair is an error.
        attention: attention implementation, as for a language model.
        dtype: data type of the weights.
        device: "cpu", "cuda", ...

    Raises:
        SelfplayError: the model cannot be loaded, does not have exactly one label, or its score of a pair depends on
            the other pairs in the batch (see `selfplay.engines.scores`).
    """

    def __init__(
        self,
        path: Name,
        batch_size: Count = 512,
        chat: Mapping[str, Any] | None = None,
        truncate: bool = True,
        attention: str = "sdpa",
        dtype: Dtype = "float32",
        device: Name = "cpu",
    ) -> None:
        at_least(1, batch_size=batch_size)
        self.tokenizer = tokenizer_at(path)
        heads = {} if config_at(path) is None else {"num_labels": 1}  # an adapter's base model may lack a head
        auto = AutoModelForSequenceClassification
        base, saved, missing = load_base(auto, path, dtype, device, attention, **heads)
        self.model = base if saved is None else judging(base, path, missing)
        check_labels(path, self.model.config.num_labels)
        self.conversations = Conversations(self.tokenizer, chat or {}, context_of(self.model), truncate)
        self.scorer = Scorer(self.model, batch_size, self._pad, *self.conversations.examples())

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_deduplicated(turns, self.logits)

    @torch.no_grad()
    def logits(self, pairs: list[Pair]) -> Tensor:
        """[N] logits of question-answer pairs.

        Raises:
            SelfplayError: a pair exceeds the model's context and cannot be truncated.
        """
        texts, truncated = self.conversations.all_fitted(pairs)
        self.metrics = {"truncated": truncated}
        return self.scorer(texts)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)


def check_labels(path: str, labels: int) -> None:
    """Raise SelfplayError unless the model at `path` has one label."""
    if labels != 1:
        raise SelfplayError(
            f"the reward model '{path}' has {labels} labels; use a model with one label, trained on preference pairs"
        )
