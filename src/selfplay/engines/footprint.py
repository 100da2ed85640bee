"""The tensors that the fast implementations of a model hold, found by its modules alone; no weights are read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.engines.llama import layers, trial
from selfplay.engines.llama.decoder import LARGE, Decoder, Product, lays_out
from selfplay.engines.llama.kv_sharing import MOST as COLUMNS
from selfplay.engines.logprobs import LEAST

__all__ = ("COLUMNS", "LEAST", "decoder_bytes", "decodes", "runs_own_layers")


def decodes(model: PreTrainedModel) -> bool:
    """Whether the embedded engine would build a decoder for the model, if its trial succeeds."""
    return trial.has_parts(model)


def runs_own_layers(model: PreTrainedModel) -> bool:
    """Whether log-probabilities would use our own layers, if their trial succeeds."""
    return layers.has_parts(model)


def decoder_bytes(model: PreTrainedModel, dtype: torch.dtype, on_cpu: bool) -> int:
    """Bytes of a decoder's matrices that are not the model's own; a CPU stores large ones in another layout.

    Args:
        model: a model for which `decodes`, on any device, the meta device included.
        dtype: precision of the decoder's products.
        on_cpu: whether the model will be on a CPU like this one.
    """
    own = {id(p) for p in model.parameters()}
    matrices, copies = _matrices(Decoder(model, dtype)), on_cpu and lays_out(dtype)
    return sum(x.numel() * x.element_size() for x in matrices if id(x) not in own or (copies and x.numel() >= LARGE))


def _matrices(decoder: Decoder) -> Iterator[Tensor]:
    products = [getattr(layer, name) for layer in decoder.layers for name in ("read", "write", "gate", "up", "down")]
    for product in (decoder.head, *products):
        assert isinstance(product, Product)
        yield from (product.weight, *(product.factors or ()))
