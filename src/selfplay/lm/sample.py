"""Sampling replies: one prefill a distinct prompt, finished rows leave, and each reply has dice of its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.lm.cache import new_cache
from selfplay.lm.mixture import MixedModel


@dataclass(frozen=True)
class Sampled:
    """The sampled ids (the end token included when it came) and their log-probabilities under the sampling policy."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def dice(key: str, count: int) -> np.ndarray:
    """[count] uniforms in [0, 1), float64, a pure function of the key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both [B, P] int64, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def choose(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Sample by inverting the cumulative distribution.

    Args:
        logits: [B, V].
        uniforms: [B] float64 in [0, 1).
        temperature: > 0; or 0 for the most likely token, whose log-probability is then given at temperature 1.

    Returns:
        token [B] int64, and its log-probability [B] float32 under softmax(logits / temperature).
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logp.argmax(-1)
    else:
        cumulative = logp.double().exp().cumsum(-1)
        point = uniforms.to(cumulative.device)[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


@torch.no_grad()
def sample(
    model: PreTrainedModel | MixedModel,
    prompts: Sequence[tuple[int, ...]],
    keys: Sequence[str],
    temperature: float,
    max_tokens: int,
    stop: Sequence[int],
    pad: int,
) -> list[Sampled]:
    """One reply a prompt, up to the first stop token or `max_tokens`.

    A reply depends on its prompt, its key and the model alone (up to the rounding of batched arithmetic).
    """
    distinct = list(dict.fromkeys(prompts))
    where = {prompt: i for i, prompt in enumerate(distinct)}
    owner = torch.tensor([where[p] for p in prompts], device=model.device)
    uniforms = torch.from_numpy(np.stack([dice(key, max_tokens) for key in keys]))
    ids, mask = left_padded(distinct, pad, model.device)
    cache = model.new_cache(max_tokens) if isinstance(model, MixedModel) else new_cache(model.config, max_tokens)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits, mask = out.logits[:, -1][owner], mask[owner]
    cache.batch_select_indices(owner)
    stops = torch.tensor(list(stop), device=model.device)
    tokens = torch.zeros(len(prompts), max_tokens, dtype=torch.int64)
    logps = torch.zeros(len(prompts), max_tokens)
    lengths = torch.full((len(prompts),), max_tokens)
    rows = torch.arange(len(prompts))
    for t in range(max_tokens):
        token, logp = choose(logits, uniforms[rows, t], temperature)
        tokens[rows, t], logps[rows, t] = token.cpu(), logp.cpu()
        going = ~torch.isin(token, stops)
        lengths[rows[~going.cpu()]] = t + 1
        if t + 1 == max_tokens or not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            token, mask, rows = token[kept], mask[kept], rows[kept.cpu()]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return [
        Sampled(tuple(tokens[i, :n].tolist()), tuple(logps[i, :n].tolist())) for i, n in enumerate(lengths.tolist())
    ]
