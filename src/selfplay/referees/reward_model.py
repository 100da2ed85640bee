"""Trained reward models, which map a question and an answer to a scalar."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.engines.scores import LONG, Scorer, context_of
from selfplay.models.adapters import judging
from selfplay.models.base_model import config_at, load_base, tokenizer_at
from selfplay.models.chat import Chat
from selfplay.options import Count, Dtype, Name
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
        if self.model.config.num_labels != 1:
            raise SelfplayError(
                f"the reward model '{path}' has {self.model.config.num_labels} labels; "
                "use a model with one label, trained on preference pairs"
            )
        self.context = context_of(self.model)
        self.chat, self.truncate = Chat(self.tokenizer, chat or {}), truncate
        self.scorer = Scorer(self.model, batch_size, self._pad, *self._examples())

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_deduplicated(turns, self.logits)

    @torch.no_grad()
    def logits(self, pairs: list[Pair]) -> Tensor:
        """[N] logits of question-answer pairs.

        Raises:
            SelfplayError: a pair exceeds the model's context and cannot be truncated.
        """
        fitted = [self.conversation(pair) for pair in pairs]
        self.metrics = {"truncated": sum(cut for _, cut in fitted) / len(fitted)}
        return self.scorer([conversation for conversation, _ in fitted])

    def conversation(self, pair: Pair) -> tuple[tuple[int, ...], bool]:
        """The pair's token ids, and whether it was truncated to fit the context."""
        question, answer = pair
        while self._exceeds(ids := self._ids(question, answer)):
            over = len(ids) - self.context  # type: ignore[operator]
            if not self.truncate:
                raise SelfplayError(
                    f"a question and an answer of {len(ids)} tokens exceed the reward model's context of "
                    f"{self.context}; lower player.max_tokens, or set reward.truncate=true"
                )
            if not question and not answer:
                raise SelfplayError(
                    f"the reward model's chat template alone takes {len(ids)} tokens of its context of {self.context}; "
                    "choose another model with reward.path"
                )
            question, answer = (question, answer[:-over]) if answer else (question[:-over], answer)
        return ids, (question, answer) != pair

    def _exceeds(self, ids: tuple[int, ...]) -> bool:
        return self.context is not None and len(ids) > self.context

    def _ids(self, question: str, answer: str) -> tuple[int, ...]:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self.chat.ids(messages, generate=False)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _examples(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Test conversations that fit the context: four short ones, two of them of equal length, and two long ones."""
        most = min(self.context or LONG, LONG)
        short = [self._ids("What is 3 + 4?", answer) for answer in ("7", "8", "It is seven.", "")]
        words = "What is it? "
        alone, more = len(self._ids("", "yes")), len(self._ids(10 * words, "yes"))
        each = max(1.0, (more - alone) / 10)
        long = [self._ids(int((share * most - alone) / each) * words, "yes") for share in (0.7, 0.95)]
        return [ids for ids in short if not self._exceeds(ids)], [ids for ids in long if not self._exceeds(ids)]
