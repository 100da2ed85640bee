"""Sampling replies: one prefill a distinct prompt, finished rows leave, and each reply has dice of its own."""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.lm.decoder import Decoder
from selfplay.lm.mixture import MixedModel
from selfplay.lm.threads import Plain, Prompt, Shared, Threads
from selfplay.lm.truncation import ALL, Truncation

BLOCK = 256  # tokens of the vocabulary whose probabilities are added up first
LEAVE = 8  # rows leave when one in so many has finished, for leaving copies what is kept


@dataclass(frozen=True)
class Sampled:
    """The sampled ids (the end token included when it came) and their log-probabilities under the sampling policy."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def dice(key: str, count: int) -> np.ndarray:
    """[count] uniforms in [0, 1), float64, a pure function of the key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def choose(logits: Tensor, uniforms: Tensor, temperature: float, truncation: Truncation = ALL) -> tuple[Tensor, Tensor]:
    """Sample by inverting the cumulative distribution.

    Args:
        logits: [B, V].
        uniforms: [B] float64 in [0, 1).
        temperature: > 0; or 0 for the most likely token, whose log-probability is then given at temperature 1.
        truncation: which tokens may be said.

    Returns:
        token [B] int64, and its log-probability [B] float32 under softmax(logits / temperature) of what may be said.
    """
    logits = truncation(logits.float() / (temperature or 1.0))
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    token = logits.argmax(-1) if temperature == 0 else _invert(blocks, sums, uniforms.to(logits.device))
    return token, ((logits.gather(-1, token[:, None]) - most).squeeze(-1) - sums[:, -1].log()).float()


def _invert(blocks: Tensor, sums: Tensor, uniforms: Tensor) -> Tensor:
    """[B] the first token up to which the weights [B, K, BLOCK] add up to more than the uniform's share of all.

    It is looked for among the blocks, whose rising sums are [B, K], then within one.
    """
    points = uniforms * sums[:, -1]
    block, before = _place(sums, points)
    within = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK)).squeeze(1).double().cumsum(-1)
    return block * BLOCK + _place(within, points - before)[0]


def _place(sums: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the sums [B, K], rising, is the first above the point [B], and what the one before it is."""
    points = torch.minimum(points, sums[:, -1] * (1 - 2.0**-50)).clamp(min=0)  # a point beyond all is of the last
    place = torch.searchsorted(sums, points[:, None], right=True)
    before = sums.gather(-1, (place - 1).clamp(min=0)).masked_fill(place == 0, 0.0)
    return place.squeeze(-1), before.squeeze(-1)


@torch.no_grad()
def sample(
    model: PreTrainedModel | MixedModel | Decoder,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    temperature: float,
    max_tokens: int,
    stop: Sequence[int],
    pad: int,
    rows: int,
    truncation: Truncation = ALL,
    ended: Callable[[list[int]], bool] | None = None,
) -> list[Sampled]:
    """One reply a prompt, up to the first stop token, `max_tokens`, or what `ended` finds.

    A reply depends on its prompt, its key and the model alone (up to the rounding of batched arithmetic).

    Args:
        model: see `selfplay.lm.threads`; a `Decoder` is faster.
        rows: replies that are written side by side; where a decoder writes, others take the place of those that end.
        ended: a reply's tokens so far -> whether it ends here.
    """
    if isinstance(model, Decoder):
        threads: Threads = Shared(model, max_tokens)
        precision: Any = torch.autocast(model.device.type, enabled=False)  # it has its own
    else:
        threads, precision = Plain(model, max_tokens, pad), nullcontext()
    uniforms = torch.from_numpy(np.stack([dice(key, max_tokens) for key in keys]))
    stops = torch.tensor(list(stop))
    said = torch.zeros(len(prompts), max_tokens, dtype=torch.int64)
    logps = torch.zeros(len(prompts), max_tokens)
    lengths = torch.zeros(len(prompts), dtype=torch.int64)
    queue = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])))
    who, going = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)  # [B] whose row; is it unfinished
    tokens = torch.zeros(0, dtype=torch.int64)
    with precision:
        while queue or len(who):
            logits = [threads.step(tokens.to(model.device))] if len(who) else []
            if queue and (not len(who) or (threads.refills and 2 * len(who) <= rows)):
                some = [queue.popleft() for _ in range(min(len(queue), rows - len(who)))]
                distinct = list(dict.fromkeys(prompts[i] for i in some))
                logits.append(threads.admit(distinct, [distinct.index(prompts[i]) for i in some]))
                who, going = (
                    torch.cat([who, torch.tensor(some)]),
                    torch.cat([going, torch.ones(len(some), dtype=torch.bool)]),
                )
            places = lengths[who].clamp(max=max_tokens - 1)
            chosen = choose(torch.cat(logits), uniforms[who, places], temperature, truncation)
            tokens, logp = chosen[0].cpu(), chosen[1].cpu()
            mine, place = who[going], places[going]
            said[mine, place], logps[mine, place] = tokens[going], logp[going]
            lengths[mine] += 1
            going &= ~torch.isin(tokens, stops) & (lengths[who] < max_tokens)
            if ended is not None:
                for row in going.nonzero()[:, 0].tolist():
                    going[row] = not ended(said[who[row], : lengths[who[row]]].tolist())
            left = int(going.sum())
            waited_for = bool(queue) and threads.refills and 2 * left <= rows
            if left < len(who) and (waited_for or LEAVE * (len(who) - left) >= len(who)):
                kept = going.nonzero()[:, 0]
                who, tokens, going = who[kept], tokens[kept], going[kept]
                threads.keep(kept.to(model.device))
    return [Sampled(tuple(said[i, :n].tolist()), tuple(logps[i, :n].tolist())) for i, n in enumerate(lengths.tolist())]
