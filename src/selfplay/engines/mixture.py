"""A mixture of the next-token log-probabilities of two language models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from selfplay.core import SelfplayError
from selfplay.engines.engine import Mixture
from selfplay.engines.transformers.kv_cache import new_cache


class MixedModel:
    """Acts as one causal language model for `selfplay.engines.sampling.sample`; each model has its own cache.

    Its logits are (1 - c) logprobs_1 + c logprobs_2, at any temperature the geometric mixture of both models.

    Args:
        mixture: the weights of both models; LoRA snapshots are swapped in for each call.

    Raises (when called):
        SelfplayError: the models have different vocabularies.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.parts = ((mixture.first, 1 - mixture.coefficient), (mixture.second, mixture.coefficient))
        model = mixture.first.model
        self.config, self.generation_config, self.device = model.config, model.generation_config, model.device

    def new_cache(self, room: int) -> Caches:
        """An empty cache for both models, see `selfplay.engines.transformers.kv_cache`."""
        return Caches([new_cache(weights.model, room) for weights, _ in self.parts])

    def __call__(self, past_key_values: Caches | None = None, **inputs: Any) -> SimpleNamespace:
        logits: list[Tensor] = []
        for i, (weights, share) in enumerate(self.parts):
            cache = {} if past_key_values is None else {"past_key_values": past_key_values.caches[i]}
            with weights.placed():
                out = weights.model(**cache, **inputs)
            logits.append(share * torch.log_softmax(out.logits.float(), -1).to(self.device))
        if logits[0].shape != logits[1].shape:
            raise SelfplayError(
                f"two models with vocabularies of {logits[0].shape[-1]} and {logits[1].shape[-1]} tokens cannot be "
                "mixed; use models with the same tokenizer"
            )
        return SimpleNamespace(logits=logits[0] + logits[1])


class Caches:
    """The caches of both models, whose rows are reordered together."""

    def __init__(self, caches: list[Cache]) -> None:
        self.caches = caches

    def reorder_cache(self, rows: Tensor) -> None:
        for cache in self.caches:
            cache.reorder_cache(rows)
