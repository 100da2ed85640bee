"""Whether `Decoder` supports a model, by a trial that compares it with the model's own forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.graphs import Capture, capture_on
from selfplay.engines.llama.kv_sharing import PrefixShared
from selfplay.engines.masked import full_attention
from selfplay.models.finer import finer
from selfplay.models.structure import bare, base_of, body_of, is_llama, is_product
from selfplay.models.trial import alike, as_accurate, is_half, passes

TRIAL = (12, 5, 9)  # token counts of the trial texts
RECORDED = 20  # steps of the trial of recorded steps
LOUD = 100.0  # standard deviation of the trial's logits, large enough to reveal a soft cap
STATIC = ("default", "linear", "llama3", "yarn")  # rotary types that do not depend on the sequence length


def can_decode(model: PreTrainedModel) -> bool:
    """Whether `Decoder` computes the same as the model, by its modules and by a trial."""
    return has_parts(model) and passes(model, "decoder", _agrees)


def can_capture(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Whether recorded token steps exist on the model's device and are those of a decoder that records nothing."""
    capture = capture_on(model.device)
    return capture is not None and passes(model, f"recorded in {dtype}", lambda m: _records(m, dtype, capture))


def _records(model: PreTrainedModel, dtype: torch.dtype, capture: Capture) -> bool:
    """Compare logits of steps over two blocks of the cache, with rows of one prompt and of another."""
    vocabulary = model.get_output_embeddings().weight.shape[0]

    def logits(by: Capture | None) -> list[Tensor]:
        state = PrefixShared(Decoder(model, dtype, capture=by), RECORDED)
        state.admit([tuple(i % vocabulary for i in range(n)) for n in TRIAL])
        state.keep(torch.tensor([0, 0, 1, 2]))
        tokens = torch.arange(4, device=model.device) * 3
        return [state.step((tokens + number) % vocabulary).clone() for number in range(RECORDED)]

    with torch.inference_mode():
        return all(alike(a, b, dtype) for a, b in zip(logits(capture), logits(None), strict=True))


def has_parts(model: PreTrainedModel) -> bool:
    """Whether a `Decoder` could be built, by the model's modules alone."""
    if not full_attention(model) or not is_llama(model) or body_of(model).rotary_emb.rope_type not in STATIC:
        return False
    layers: Any = body_of(model).layers
    read = [[getattr(layer.self_attn, f"{name}_proj") for name in "qkv"] for layer in layers]
    rest = [
        [layer.self_attn.o_proj, *(getattr(layer.mlp, f"{n}_proj") for n in ("gate", "up", "down"))] for layer in layers
    ]
    parts = [model.get_output_embeddings(), *(module for some in (*read, *rest) for module in some)]
    alike = all(len({base_of(module).bias is None for module in qkv}) == 1 for qkv in read)
    return alike and all(map(is_product, parts))


def _agrees(model: PreTrainedModel) -> bool:
    """Whether logits agree after prompts of different lengths and after one more token each.

    The final norm is temporarily scaled up, because the small logits of an untrained head would hide a soft cap.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    texts = [tuple(i % vocabulary for i in range(7, 7 + n)) for n in TRIAL]
    ends = torch.tensor([len(text) - 1 for text in texts])
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True).to(model.device)
    norm = body_of(model).norm.weight
    kept = norm.data
    rows = torch.arange(len(texts))

    def ours(dtype: torch.dtype, lazily: bool) -> Tensor:
        state = PrefixShared(Decoder(model, dtype, lazily), 1)
        begun = state.admit([text[:-1] for text in texts])
        after = state.step(torch.tensor([text[-1] for text in texts], device=model.device))
        return torch.cat([begun, after])

    def theirs() -> Tensor:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return torch.cat([logits[rows, ends - 1], logits[rows, ends]])

    try:
        norm.data = kept * (LOUD / model(input_ids=ids, use_cache=False).logits.float().std())
        if not is_half(model):
            return alike(ours(model.dtype, False), theirs(), model.dtype)
        with finer(bare(model), torch.float32):
            exact = theirs()
        right = alike(ours(torch.float32, True), exact, torch.float32)
        return right and as_accurate(ours(model.dtype, False), theirs(), exact)
    finally:
        norm.data = kept
