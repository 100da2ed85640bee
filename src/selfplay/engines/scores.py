"""Scores of texts by a sequence-classification model of any architecture: a score is a function of its text alone.

Encoders see what comes after a token, padding too, and number their places by themselves; decoders read the score off
their last token, which each finds in its own way. Which way of reading many texts is right for a model is tried out:
each text must be given the score that it has alone, in one unpadded call.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.engines.last_hidden import last_states
from selfplay.engines.transformers.decode import NEAR

Text = tuple[int, ...]
UNREADABLE = (AssertionError, AttributeError, LookupError, RuntimeError, SelfplayError, TypeError, ValueError)
LONG = 1024  # tokens of the longest text of a trial: more than the windows and blocks of long encoders


class Scorer:
    """[N] float32 scores of N texts, ragged.

    Args:
        model: with one label.
        rows: texts read side by side.
        pad: the padding token.
        some: short texts to try it out with, of different lengths and two of one.
        long: two longer ones, for architectures with windows or blocks that depend on the longest text of a batch.

    Raises:
        SelfplayError: no way of reading gives a text the score that it has alone.
    """

    def __init__(self, model: PreTrainedModel, rows: int, pad: int, some: Sequence[Text], long: Sequence[Text]) -> None:
        self.model, self.rows, self.pad = model, rows, pad
        config: Any = model.config.get_text_config()
        if isinstance(getattr(model, "score", None), torch.nn.Linear):
            config.pad_token_id = -1  # never seen, so such a head reads the last position
        elif getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = pad
        self.read = self._tried(some, long)

    @torch.no_grad()
    def __call__(self, texts: Sequence[Text]) -> Tensor:
        return self.read(texts)

    @torch.no_grad()
    def _tried(self, some: Sequence[Text], long: Sequence[Text]) -> Callable[[Sequence[Text]], Tensor]:
        """The first way of reading that is right."""
        name = type(self.model).__name__
        try:
            alone = self._alone(some)
        except UNREADABLE as error:
            reason = str(error).strip().split("\n")[0]
            raise SelfplayError(
                f"the reward model {name} cannot read a text ({reason}); choose another model"
            ) from error
        if not self._near(self._alone(some), alone):
            raise SelfplayError(f"the reward model {name} gives one text two different scores; choose another model")
        problem: Exception | None = None
        for way in (self._by_states, self._padded, self._by_length):
            try:
                right = self._near(way(some), alone)
                if right and way == self._padded:
                    right = self._near(way([*some, *long]), torch.cat([alone, self._alone(long)]))
                    right = right and self._unmoved(some)
                if right:
                    return way
            except torch.OutOfMemoryError:
                raise
            except UNREADABLE as error:
                problem = error  # of a way that is not for this architecture
        raise SelfplayError(
            f"the reward model {name} gives a text another score beside others than alone, so a reward would not "
            "depend on its question and answer alone; choose another model"
        ) from problem

    def _near(self, scores: Tensor, alone: Tensor) -> bool:
        """Whether each score is what it is alone but for rounding."""
        return torch.allclose(scores, alone, rtol=self._rounding, atol=self._rounding)

    @property
    def _rounding(self) -> float:
        return float(min(0.1, NEAR * torch.finfo(self.model.dtype).eps ** 0.75))

    def _unmoved(self, texts: Sequence[Text]) -> bool:
        """Whether padding leaves every layer's states of a text's own tokens as they are alone.

        Scores may hide that it does not, where a pooled state is near the limits of tanh. MobileBERT, for one, reads
        at each token what stands beside it.
        """
        beside, width = self._states(*self._side_by_side(texts)), max(map(len, texts))
        for row, text in enumerate(texts):
            one = self._states(torch.tensor([text]))
            for there, here in zip(beside, one, strict=True):
                if here.shape[1] == len(text) and there.shape[1] == width:  # one state a token
                    moved = (there[row, : len(text)] - here[0]).abs().max()
                    if not moved <= self._rounding * here.abs().max():  # NaN, too
                        return False
        return True

    def _states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """[N, T, D] of each layer that tells its states."""
        options = {} if mask is None else {"attention_mask": mask.to(self.model.device)}
        output = self.model(input_ids=ids.to(self.model.device), output_hidden_states=True, **options)
        kinds = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
        return [state.float() for kind in kinds for state in getattr(output, kind, None) or ()]

    def _alone(self, texts: Sequence[Text]) -> Tensor:
        return torch.cat([self._logits(torch.tensor([text])) for text in texts])

    def _by_states(self, texts: Sequence[Text]) -> Tensor:
        """For causal models whose layer `score` reads the last token's state: common beginnings are read once."""
        head: Any = self.model.score
        scores: Tensor = head(last_states(self.model, texts, self.rows))
        return scores.squeeze(-1).float()

    def _padded(self, texts: Sequence[Text]) -> Tensor:
        """Side by side, padded on the right, with a mask; a head that reads the last position cannot."""
        if isinstance(getattr(self.model, "score", None), torch.nn.Linear):
            raise ValueError("the padding would be read")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [self._beside([texts[i] for i in order[k : k + self.rows]]) for k in range(0, len(texts), self.rows)]
        return _in_order(torch.cat(parts), order)

    def _by_length(self, texts: Sequence[Text]) -> Tensor:
        """Only texts of one length side by side."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        groups = [list(group) for _, group in groupby(order, key=lambda i: len(texts[i]))]
        some = [group[k : k + self.rows] for group in groups for k in range(0, len(group), self.rows)]
        return _in_order(torch.cat([self._logits(torch.tensor([texts[i] for i in group])) for group in some]), order)

    def _beside(self, texts: Sequence[Text]) -> Tensor:
        ids, mask = self._side_by_side(texts)
        return self._logits(ids, attention_mask=mask)

    def _side_by_side(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Tokens and mask of texts padded on the right."""
        lengths = torch.tensor([len(text) for text in texts])
        ids = torch.full((len(texts), int(lengths.max())), self.pad)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()

    def _logits(self, ids: Tensor, **options: Tensor) -> Tensor:
        device = self.model.device
        given = {name: value.to(device) for name, value in options.items()}
        logits: Tensor = self.model(input_ids=ids.to(device), **given).logits
        return logits.squeeze(-1).float()


def _in_order(sorted_scores: Tensor, order: Sequence[int]) -> Tensor:
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return sorted_scores[back.to(sorted_scores.device)]


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that a model reads; None: any number.

    Models of RoBERTa's kind number places from behind their padding token's, so some of the table cannot be used.
    """
    context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None or context <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            places: Any = module.weight
            context = min(context, len(places) - int(module.padding_idx) - 1)  # type: ignore[arg-type]
    return context
