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

from selfplay.core import SelfplayError
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

    Raises:
        SelfplayError: a logit is NaN or plus infinity.
    """
    logits = truncation(logits.float() / (temperature or 1.0))
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    if not bool(sums[:, -1].isfinite().all()):
        raise SelfplayError(
            "the model's logits are not numbers any more, so no token can be drawn; go on from an earlier checkpoint, "
            "or start a new run with a lower update.optimizer.lr"
        )
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
    writing = _Writing(model, prompts, keys, max_tokens, rows, pad)
    stops = torch.tensor(list(stop))
    with torch.autocast(model.device.type, enabled=False) if isinstance(model, Decoder) else nullcontext():
        while (logits := writing.logits()) is not None:
            who, going = writing.who, writing.going
            places = writing.lengths[who].clamp(max=max_tokens - 1)
            chosen = choose(logits, writing.uniforms[who, places], temperature, truncation)
            tokens, logp = chosen[0].cpu(), chosen[1].cpu()
            writing.say(tokens, logp)
            going &= ~torch.isin(tokens, stops) & (writing.lengths[who] < max_tokens)
            if ended is not None:
                for row in going.nonzero()[:, 0].tolist():
                    going[row] = not ended(writing.said[who[row], : writing.lengths[who[row]]].tolist())
            writing.leave()
    return writing.sampled()


class _Writing:
    """Replies in the making: which rows write which, what was said, who waits."""

    def __init__(
        self, model: Any, prompts: Sequence[Prompt], keys: Sequence[str], max_tokens: int, rows: int, pad: int
    ) -> None:
        shared = isinstance(model, Decoder)
        self.threads: Threads = Shared(model, max_tokens) if shared else Plain(model, max_tokens, pad)
        self.device, self.prompts, self.rows = model.device, prompts, rows
        self.uniforms = torch.from_numpy(np.stack([dice(key, max_tokens) for key in keys]))
        self.said = torch.zeros(len(prompts), max_tokens, dtype=torch.int64)
        self.logps = torch.zeros(len(prompts), max_tokens)
        self.lengths = torch.zeros(len(prompts), dtype=torch.int64)
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])))
        self.who = torch.zeros(0, dtype=torch.int64)  # [B] which reply each row writes
        self.going = torch.zeros(0, dtype=torch.bool)  # [B] whether it is not ended; what is may stay for a while
        self.tokens = torch.zeros(0, dtype=torch.int64)  # [B] what was said last

    def logits(self) -> Tensor | None:
        """Of each row's next token [B, V], after reading the last ones and taking in who waits; None at the end."""
        found = [self.threads.step(self.tokens.to(self.device))] if len(self.who) else []
        if self.queue and (not len(self.who) or self._has_room(len(self.who))):
            some = [self.queue.popleft() for _ in range(min(len(self.queue), self.rows - len(self.who)))]
            where: dict[Prompt, int] = {}
            owner = [where.setdefault(self.prompts[i], len(where)) for i in some]
            found.append(self.threads.admit(list(where), owner))
            self.who = torch.cat([self.who, torch.tensor(some)])
            self.going = torch.cat([self.going, torch.ones(len(some), dtype=torch.bool)])
        return torch.cat(found) if found else None

    def _has_room(self, rows: int) -> bool:
        """Whether others are taken in beside so many rows."""
        return bool(self.queue) and self.threads.refills and 2 * rows <= self.rows

    def say(self, tokens: Tensor, logps: Tensor) -> None:
        """Write down each row's token, of those that are not ended."""
        mine = self.who[self.going]
        place = self.lengths[mine]
        self.said[mine, place], self.logps[mine, place] = tokens[self.going], logps[self.going]
        self.lengths[mine] += 1
        self.tokens = tokens

    def leave(self) -> None:
        """Drop the rows that are ended, when they are many or somebody waits for their place."""
        left, rows = int(self.going.sum()), len(self.who)
        if left < rows and (self._has_room(left) or LEAVE * (rows - left) >= rows):
            kept = self.going.nonzero()[:, 0]
            self.who, self.tokens, self.going = self.who[kept], self.tokens[kept], self.going[kept]
            self.threads.keep(kept.to(self.device))

    def sampled(self) -> list[Sampled]:
        return [
            Sampled(tuple(self.said[i, :n].tolist()), tuple(self.logps[i, :n].tolist()))
            for i, n in enumerate(self.lengths.tolist())
        ]
