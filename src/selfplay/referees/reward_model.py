"""A trained reward model: one number for a question and an answer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.lm.load import load_model, load_tokenizer
from selfplay.lm.sample import left_padded
from selfplay.referees.distinct import Pair, score_distinct


class RewardModel(Referee):
    """The logit of a Bradley-Terry reward model (sequence classification, one label) on the chat-templated pair.

    Args:
        path: hub id, folder, or `asset:<name>`.
        rows: pairs read side by side.
        dtype: of the weights.
        device: "cpu", "cuda", ...

    Raises:
        SelfplayError: it cannot be loaded, or has not one label.
    """

    def __init__(self, path: str, rows: int, dtype: str, device: str) -> None:
        at_least(1, rows=rows)
        self.tokenizer = load_tokenizer(path)
        self.model = load_model(AutoModelForSequenceClassification, path, dtype, device)
        if self.model.config.num_labels != 1:
            raise SelfplayError(
                f"the reward model '{path}' has {self.model.config.num_labels} labels; "
                "use one trained on preference pairs, with one label"
            )
        self.model.config.get_text_config().pad_token_id = (
            -1
        )  # never seen, so the last position is read; padding is left
        self.rows = rows

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_distinct(turns, self.logits)

    @torch.no_grad()
    def logits(self, pairs: list[Pair]) -> Tensor:
        """[N] logits of question-answer pairs."""
        parts = [self._read(pairs[i : i + self.rows]) for i in range(0, len(pairs), self.rows)]
        return torch.cat(parts)

    def _read(self, pairs: list[Pair]) -> Tensor:
        conversations = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                tokenize=True,
                return_dict=True,
            )["input_ids"]  # type: ignore[call-overload, index]
            for question, answer in pairs
        ]
        pad = self.tokenizer.pad_token_id
        ids, mask = left_padded(conversations, self.tokenizer.eos_token_id if pad is None else pad, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        return logits.squeeze(-1).float()
