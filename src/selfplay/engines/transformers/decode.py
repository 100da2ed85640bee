"""Texts of any causal model, written side by side by transformers' own modules.

What a model remembers of a text is its own affair: keys and values, of a window perhaps, states of a recurrence, or
nothing. Padding before a prompt is masked out by most models and read by some; so which way of reading is right for a
model is tried out: each row must be given the logits that its text has alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.engines.engine import Prompt
from selfplay.engines.mixture import MixedModel
from selfplay.engines.transformers.kv_cache import new_cache
from selfplay.models.structure import bare

KNOWN = {"full_attention", "sliding_attention", "linear_attention", "conv", "hybrid", "hybrid_sliding", "moe", "mlp"}
NEAR = 4  # times the precision to the power of 3/4: 3e-5 of the logits' norm in float32, 0.1 in bfloat16


@dataclass(frozen=True)
class Way:
    """How a model is read.

    Attributes:
        ragged: whether prompts of different lengths are read together, padded on the left; otherwise only those of one
            length are, without padding, mask or positions.
        cached: whether what was read is remembered; otherwise all of a text is read again for each token of it.
    """

    ragged: bool
    cached: bool


WAYS = (Way(True, True), Way(False, True), Way(False, False))  # the best first
_ways: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


class HFDecodeState:
    """B rows, each behind a prompt; they grow by one token at a time; see `kv_sharing.DecodeState`."""

    refills = False

    def __init__(self, model: PreTrainedModel | MixedModel, room: int, pad: int, way: Way | None = None) -> None:
        self.model, self.room, self.pad = model, room, pad
        self.way = way or way_of(model)
        self.together = self.way.ragged

    def admit(self, prompts: Sequence[Prompt]) -> Tensor:
        self.ids, self.mask = left_padded(prompts, self.pad, self.model.device)
        assert self.way.ragged or bool(self.mask.all())
        if self.way.cached:
            self.cache = new_caches(self.model, self.room)
        return self._read(self.ids)

    def keep(self, rows: Tensor) -> None:
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.way.cached:
            self.cache.reorder_cache(rows)  # which all kinds of layers have, unlike batch_select_indices

    def step(self, tokens: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self._read(tokens[:, None])

    def _read(self, new: Tensor) -> Tensor:
        """[B, V] logits of what comes after all ids, of which the last ones are new."""
        options: dict[str, Any] = {"use_cache": False}
        if self.way.cached:
            name = "past_key_values" if _takes(self.model, "past_key_values") else "cache_params"  # of Mamba
            options = {"use_cache": True, name: self.cache}
        if self.way.ragged:
            positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
            options |= {"attention_mask": self.mask, "position_ids": positions[:, -new.shape[1] :]}
        if _takes(self.model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(input_ids=new if self.way.cached else self.ids, **options).logits[:, -1]
        return logits


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both [B, P] int64, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def new_caches(model: Any, room: int) -> Any:
    """An empty cache for a model, for both of a mixture."""
    return model.new_cache(room) if isinstance(model, MixedModel) else new_cache(model, room)


def _takes(model: Any, option: str) -> bool:
    """Whether the forward method knows an option by name."""
    if isinstance(model, MixedModel):
        return all(_takes(weights.model, option) for weights, _ in model.parts)
    return option in signature(bare(model).forward).parameters


# --- which way is right -----------------------------------------------------------------------------------------------


def way_of(model: Any) -> Way:
    """The best way of reading that is right for a model, by its config and by a trial; for both of a mixture.

    Raises:
        SelfplayError: none is right.
    """
    if isinstance(model, MixedModel):
        ways = [way_of(weights.model) for weights, _ in model.parts]
        return Way(all(way.ragged for way in ways), all(way.cached for way in ways))
    if model not in _ways:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            _ways[model] = _tried(model)
    return _ways[model]


def _tried(model: PreTrainedModel) -> Way:
    reason: Exception | None = None
    for way in WAYS[_by_config(model) :]:
        try:
            if _is_right(model, way):
                return way
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = error  # of a way that is not for this architecture
    raise SelfplayError(
        f"the architecture {type(bare(model)).__name__} reads a text otherwise beside another than alone, even of the "
        "same length, so a reply would not depend on its prompt alone; choose another model"
    ) from reason


def _by_config(model: PreTrainedModel) -> int:
    """The first way that is worth a trial: layers that count blocks from the beginning of a row, however long, cannot
    be tried out on short texts, and must not be padded."""
    config: Any = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    blocks = getattr(config, "attention_chunk_size", None)
    return 0 if kinds <= KNOWN and blocks is None else 1


def _is_right(model: PreTrainedModel, way: Way) -> bool:
    """Whether rows that come, go, become several and grow have the logits that each text has alone."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    ids = [i % vocabulary for i in range(7, 27)]
    texts = [tuple(ids[:9]), tuple(ids[5:9] if way.ragged else ids[5:14]), tuple(ids[2:11])]
    state = HFDecodeState(model, 4, ids[0], way)
    right = _same(model, texts, state.admit(texts))
    for rows, tokens in (([1, 0, 0], ids[9:12]), ([0, 2], ids[12:14]), ([0, 1], ids[14:16])):
        texts = [(*texts[row], token) for row, token in zip(rows, tokens, strict=True)]
        state.keep(torch.tensor(rows, device=model.device))
        right = right and _same(model, texts, state.step(torch.tensor(tokens, device=model.device)))
    return right


def _same(model: PreTrainedModel, texts: Sequence[Prompt], logits: Tensor) -> bool:
    alone = [
        model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0, -1] for text in texts
    ]
    apart = min(0.1, NEAR * torch.finfo(model.dtype).eps ** 0.75)
    return all(float((a - b).norm()) <= apart * float(b.norm()) for a, b in zip(logits.float(), alone, strict=True))
