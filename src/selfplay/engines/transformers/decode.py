"""Batched decoding of any causal model with transformers' own modules.

The cache depends on the architecture: keys and values (perhaps of a window), recurrent states, or none. Most models
mask out left padding, some do not. A trial therefore selects a decoding method that is correct for the model: each row
must get the logits that its text gets alone.
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
from selfplay.devices import exact_float32, sent
from selfplay.engines.engine import Prompt
from selfplay.engines.mixture import MixedModel
from selfplay.engines.transformers.kv_cache import new_cache
from selfplay.models.finer import finer
from selfplay.models.structure import bare
from selfplay.models.trial import is_half

KNOWN = {"full_attention", "sliding_attention", "linear_attention", "conv", "hybrid", "hybrid_sliding", "moe", "mlp"}
NEAR = 4  # tolerance / eps^(3/4): 3e-5 of the logits' norm in float32, 0.1 in bfloat16


@dataclass(frozen=True)
class Way:
    """A decoding method.

    Attributes:
        ragged: whether a batch may hold prompts of different lengths, left-padded; otherwise lengths must be equal, and
            no mask or position ids are passed.
        cached: whether a cache is used; otherwise each step recomputes the whole text.
    """

    ragged: bool
    cached: bool


WAYS = (Way(True, True), Way(False, True), Way(False, False))  # in order of preference
_ways: WeakKeyDictionary[PreTrainedModel, Way] = WeakKeyDictionary()


class HFDecodeState:
    """B rows, each a continuation of a prompt; see `kv_sharing.DecodeState`."""

    refills = False

    def __init__(self, model: PreTrainedModel | MixedModel, room: int, pad: int, way: Way | None = None) -> None:
        self.model, self.room, self.pad = model, room, pad
        self.way = way or way_of(model)
        self.together = self.way.ragged

    def admit(self, prompts: Sequence[Prompt]) -> Tensor:
        assert self.way.ragged or len(set(map(len, prompts))) == 1
        self.ids, self.mask = left_padded(prompts, self.pad, self.model.device)
        if self.way.cached:
            self.cache = new_caches(self.model, self.room)
        return self._read(self.ids)

    def keep(self, rows: Tensor) -> None:
        rows = sent(rows, self.model.device)
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.way.cached:
            self.cache.reorder_cache(rows)  # supported by all cache layers, unlike batch_select_indices

    def step(self, tokens: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self._read(tokens[:, None])

    def _read(self, new: Tensor) -> Tensor:
        """[B, V] next-token logits; `new` holds the last ids, which are not cached yet."""
        options: dict[str, Any] = {"use_cache": False}
        if self.way.cached:
            name = "past_key_values" if _takes(self.model, "past_key_values") else "cache_params"  # Mamba
            options = {"use_cache": True, name: self.cache}
        if self.way.ragged:
            positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
            options |= {"attention_mask": self.mask, "position_ids": positions[:, -new.shape[1] :]}
        if _takes(self.model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(input_ids=new if self.way.cached else self.ids, **options).logits[:, -1]
        return logits


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [B, P] int64, left-padded."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return sent(ids, device), sent(mask, device)


def new_caches(model: Any, room: int) -> Any:
    """An empty cache for a model, or one for each model of a mixture."""
    return model.new_cache(room) if isinstance(model, MixedModel) else new_cache(model, room)


def _takes(model: Any, option: str) -> bool:
    """Whether the forward method has a parameter of this name."""
    if isinstance(model, MixedModel):
        return all(_takes(weights.model, option) for weights, _ in model.parts)
    return option in signature(bare(model).forward).parameters


# --- selecting a method -----------------------------------------------------------------------------------------------


def way_of(model: Any) -> Way:
    """The preferred decoding method that is correct for a model (for both models of a mixture), by config and trial.

    Raises:
        SelfplayError: no method is correct.
    """
    if isinstance(model, MixedModel):
        ways = [way_of(weights.model) for weights, _ in model.parts]
        return Way(all(way.ragged for way in ways), all(way.cached for way in ways))
    if model not in _ways:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False), exact_float32():
            _ways[model] = _tried(model)
    return _ways[model]


def _tried(model: PreTrainedModel) -> Way:
    reason: Exception | None = None
    for way in WAYS[_by_config(model) :]:
        try:
            if _is_right(model, way, model.dtype) or (is_half(model) and _is_right_in_float32(model, way)):
                return way
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = error  # this architecture does not support the method
    raise SelfplayError(
        f"the architecture {type(bare(model)).__name__} computes different logits for a text in a batch than alone, "
        "even at equal lengths, so a reply would depend on other prompts; choose another model"
    ) from reason


def _by_config(model: PreTrainedModel) -> int:
    """Index of the first method to try. Layers with blocks counted from the start of the row must not be padded, and
    a trial on short texts would not reveal that."""
    config: Any = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    blocks = getattr(config, "attention_chunk_size", None)
    return 0 if kinds <= KNOWN and blocks is None else 1


def _is_right_in_float32(model: PreTrainedModel, way: Way) -> bool:
    """As `_is_right`, where rounding in half precision may exceed its tolerance."""
    with finer(bare(model), torch.float32):
        return _is_right(model, way, torch.float32)


def _is_right(model: PreTrainedModel, way: Way, dtype: torch.dtype) -> bool:
    """Whether rows that are admitted, repeated, dropped and extended have the logits that each text gets alone."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    ids = [i % vocabulary for i in range(7, 27)]
    texts = [tuple(ids[:9]), tuple(ids[5:9] if way.ragged else ids[5:14]), tuple(ids[2:11])]
    state = HFDecodeState(model, 4, ids[0], way)
    right = _same(model, texts, state.admit(texts), dtype)
    for rows, tokens in (([1, 0, 0], ids[9:12]), ([0, 2], ids[12:14]), ([0, 1], ids[14:16])):
        texts = [(*texts[row], token) for row, token in zip(rows, tokens, strict=True)]
        state.keep(torch.tensor(rows))
        right = right and _same(model, texts, state.step(torch.tensor(tokens, device=model.device)), dtype)
    return right


def _same(model: PreTrainedModel, texts: Sequence[Prompt], logits: Tensor, dtype: torch.dtype) -> bool:
    alone = [
        model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0, -1] for text in texts
    ]
    apart = min(0.1, NEAR * torch.finfo(dtype).eps ** 0.75)
    return all(float((a - b).norm()) <= apart * float(b.norm()) for a, b in zip(logits.float(), alone, strict=True))
