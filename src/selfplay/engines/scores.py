"""Batched scores from a sequence-classification model of any architecture, independent of the rest of the batch.

Encoders attend to later tokens, which may include padding, and number positions themselves; decoders score the last
token, which each architecture finds differently. A trial therefore selects a batching method that is correct for the
model: each text must get the score that it gets alone, in one unpadded call.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.devices import exact_float32, sent
from selfplay.engines.last_hidden import last_states
from selfplay.engines.transformers.decode import NEAR
from selfplay.models.finer import finer
from selfplay.models.trial import is_half
from selfplay.out_of_memory import Rows

Text = tuple[int, ...]
UNREADABLE = (AssertionError, AttributeError, LookupError, RuntimeError, SelfplayError, TypeError, ValueError)
LONG = 1024  # tokens of the longest text of a trial, above the windows and blocks of long-context encoders


class Scorer:
    """Computes [N] float32 scores of N texts of any length.

    Args:
        model: a sequence-classification model with one label.
        rows: texts per forward pass; halved when memory runs out.
        pad: id of the padding token.
        some: short texts for the trial; two have equal length, the others differ.
        long: two longer texts, for architectures whose windows or blocks depend on the longest text of a batch.

    Raises:
        SelfplayError: no batching method gives each text the score that it gets alone.
    """

    def __init__(self, model: PreTrainedModel, rows: int, pad: int, some: Sequence[Text], long: Sequence[Text]) -> None:
        self.model, self.pad, self.precision = model, pad, model.dtype
        self.batch = Rows(rows, "the reward model's batch_size")
        config: Any = model.config.get_text_config()
        if isinstance(getattr(model, "score", None), torch.nn.Linear):
            config.pad_token_id = -1  # matches no token, so the head reads the last position
        elif getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = pad
        self.read = self._tried(some, long)

    @torch.no_grad()
    def __call__(self, texts: Sequence[Text]) -> Tensor:
        return self.batch.halving(lambda _: self.read(texts), len(texts))

    @property
    def rows(self) -> int:
        return self.batch.most

    @torch.no_grad()
    def _tried(self, some: Sequence[Text], long: Sequence[Text]) -> Callable[[Sequence[Text]], Tensor]:
        """The first batching method that passes the trial."""
        with exact_float32():
            if not is_half(self.model):
                return self._passing(some, long)
            try:
                return self._passing(some, long)
            except SelfplayError:  # rounding may exceed the tolerance of half precision
                with finer(self.model, torch.float32):
                    self.precision = torch.float32
                    return self._passing(some, long)

    def _passing(self, some: Sequence[Text], long: Sequence[Text]) -> Callable[[Sequence[Text]], Tensor]:
        name = type(self.model).__name__
        try:
            alone = self._alone(some)
        except UNREADABLE as error:
            reason = str(error).strip().split("\n")[0]
            raise SelfplayError(
                f"the reward model {name} cannot process a text ({reason}); choose another model"
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
                problem = error  # this architecture does not support the method
        raise SelfplayError(
            f"the reward model {name} scores a text differently in a batch than alone, so a reward would depend on the "
            "other texts of its batch; choose another model"
        ) from problem

    def _near(self, scores: Tensor, alone: Tensor) -> bool:
        """Whether each score equals the score of the text alone, up to rounding."""
        return torch.allclose(scores, alone, rtol=self._rounding, atol=self._rounding)

    @property
    def _rounding(self) -> float:
        return float(min(0.1, NEAR * torch.finfo(self.precision).eps ** 0.75))

    def _unmoved(self, texts: Sequence[Text]) -> bool:
        """Whether padding changes no layer's hidden states of a text's own tokens.

        Scores may hide a change if the pooled state saturates tanh. In MobileBERT, for example, the embedding of a
        token also uses its neighbours.
        """
        beside, width = self._states(*self._side_by_side(texts)), max(map(len, texts))
        for row, text in enumerate(texts):
            one = self._states(torch.tensor([text]))
            for there, here in zip(beside, one, strict=True):
                if here.shape[1] == len(text) and there.shape[1] == width:  # one state per token
                    moved = (there[row, : len(text)] - here[0]).abs().max()
                    if not moved <= self._rounding * here.abs().max():  # also true for NaN
                        return False
        return True

    def _states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """[N, T, D] hidden states of each layer that returns them."""
        options = {} if mask is None else {"attention_mask": mask.to(self.model.device)}
        output = self.model(input_ids=ids.to(self.model.device), output_hidden_states=True, **options)
        kinds = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
        return [state.float() for kind in kinds for state in getattr(output, kind, None) or ()]

    def _alone(self, texts: Sequence[Text]) -> Tensor:
        return torch.cat([self._logits(torch.tensor([text])) for text in texts])

    def _by_states(self, texts: Sequence[Text]) -> Tensor:
        """For causal models whose layer `score` reads the last token's state; common prefixes are computed once."""
        head: Any = self.model.score
        scores: Tensor = head(last_states(self.model, texts, self.rows))
        return scores.squeeze(-1).float()

    def _padded(self, texts: Sequence[Text]) -> Tensor:
        """Right-padded batches with an attention mask; invalid for heads that read the last position."""
        if isinstance(getattr(self.model, "score", None), torch.nn.Linear):
            raise ValueError("the head would read the padding")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [self._beside([texts[i] for i in order[k : k + self.rows]]) for k in range(0, len(texts), self.rows)]
        return _in_order(torch.cat(parts), order)

    def _by_length(self, texts: Sequence[Text]) -> Tensor:
        """Batches of texts of equal length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        groups = [list(group) for _, group in groupby(order, key=lambda i: len(texts[i]))]
        some = [group[k : k + self.rows] for group in groups for k in range(0, len(group), self.rows)]
        return _in_order(torch.cat([self._logits(torch.tensor([texts[i] for i in group])) for group in some]), order)

    def _beside(self, texts: Sequence[Text]) -> Tensor:
        ids, mask = self._side_by_side(texts)
        return self._logits(ids, attention_mask=mask)

    def _side_by_side(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of texts, right-padded."""
        lengths = torch.tensor([len(text) for text in texts])
        ids = torch.full((len(texts), int(lengths.max())), self.pad)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()

    def _logits(self, ids: Tensor, **options: Tensor) -> Tensor:
        device = self.model.device
        given = {name: sent(value, device) for name, value in options.items()}
        logits: Tensor = self.model(input_ids=sent(ids, device), **given).logits
        return logits.squeeze(-1).float()


def _in_order(sorted_scores: Tensor, order: Sequence[int]) -> Tensor:
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return sorted_scores[sent(back, sorted_scores.device)]


def context_of(model: PreTrainedModel) -> int | None:
    """The maximum sequence length of a model; None if unlimited.

    RoBERTa-like models start position ids after the padding token's, so part of the position table is unused.
    """
    context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None or context <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            places: Any = module.weight
            context = min(context, len(places) - int(module.padding_idx) - 1)  # type: ignore[arg-type]
    return context
