"""Sampling replies: what several begin with is read once, finished rows leave, and each reply has dice of its own."""

import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.engines.engine import Completion, Prompt, Sampling
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.kv_sharing import DecodeState, PrefixShared
from selfplay.engines.mixture import MixedModel
from selfplay.engines.transformers.decode import HFDecodeState
from selfplay.engines.truncation import ALL, Truncation

BLOCK = 256  # tokens of the vocabulary whose probabilities are added up first
MANY = 1 << 32  # more than there are tokens
LEAVE = 8  # rows leave when one in so many has nobody left who follows it


def uniforms(key: str, count: int) -> np.ndarray:
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
    blocks = None if weights.shape[-1] <= BLOCK else _blocks(weights)
    sums = weights.cumsum(-1, dtype=torch.float64) if blocks is None else blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    if not bool(sums[:, -1].isfinite().all()):
        raise SelfplayError(
            "the model's logits are not numbers any more, so no token can be drawn; go on from an earlier checkpoint, "
            "or start a new run with a lower update.optimizer.lr"
        )
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        points = uniforms.to(logits.device) * sums[:, -1]
        token = _above(sums, points) if blocks is None else _invert(blocks, sums, points)
    return token, ((logits.gather(-1, token[:, None]) - most).squeeze(-1) - sums[:, -1].log()).float()


def _blocks(weights: Tensor) -> Tensor:
    """[B, K, BLOCK] the weights [B, V], zeros at the end."""
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK))
    return padded.view(len(weights), -1, BLOCK)


def _invert(blocks: Tensor, sums: Tensor, points: Tensor) -> Tensor:
    """[B] the first token up to which the weights [B, K, BLOCK] add up to more than the point [B].

    It is looked for among the blocks, whose rising sums are [B, K], then within one.
    """
    block = _above(sums, points)
    before = sums.gather(-1, (block - 1).clamp(min=0)[:, None])[:, 0].masked_fill(block == 0, 0.0)
    within = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.float64)
    return block * BLOCK + _above(within, points - before)


def _above(sums: Tensor, points: Tensor) -> Tensor:
    """[B] which of the sums [B, K], rising, is the first above the point; a point beyond all is of the last."""
    points = torch.minimum(points, sums[:, -1] * (1 - 2.0**-50)).clamp_(min=0)
    return torch.searchsorted(sums, points[:, None], right=True)[:, 0]


def sample(
    model: PreTrainedModel | MixedModel | Decoder, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
) -> list[Completion]:
    """One completion a prompt, a function of its prompt, its key and the model alone (up to rounding).

    Args:
        model: see `selfplay.engines.llama.kv_sharing`; a `Decoder` is faster, and others take the place of those that
            end.
    """
    ours = isinstance(model, Decoder)  # and remembers no tensor of inference mode, as modules may
    with (
        torch.inference_mode() if ours else torch.no_grad(),
        torch.autocast(model.device.type, enabled=False) if ours else nullcontext(),
    ):
        writing = _Writing(model, prompts, keys, sampling)
        stops = torch.tensor(sampling.stop_ids, dtype=torch.int64)
        while (logits := writing.logits()) is not None:
            who = writing.who
            points = writing.uniforms[who, writing.lengths[who]]
            chosen = choose(logits, points, sampling.temperature, sampling.truncation)
            tokens = chosen[0].cpu()
            writing.say(tokens, chosen[1].cpu())
            stopped = torch.isin(tokens, stops)
            if sampling.ended is not None:
                for i in (~stopped).nonzero()[:, 0].tolist():
                    stopped[i] = sampling.ended(writing.said[who[i], : writing.lengths[who[i]]].tolist())
            writing.stopped[who] = stopped
            writing.go_on(tokens, ~stopped & (writing.lengths[who] < sampling.max_tokens))
    return writing.completions()


class _Writing:
    """Replies in the making: what was said, who waits, and which row each follows.

    Replies to one prompt follow one row for as long as they say the same.
    """

    def __init__(self, model: Any, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling) -> None:
        max_tokens = sampling.max_tokens
        self.state: DecodeState = (
            PrefixShared(model, max_tokens)
            if isinstance(model, Decoder)
            else HFDecodeState(model, max_tokens, sampling.pad_id)
        )
        self.device, self.prompts, self.rows = model.device, prompts, sampling.batch_size
        self.uniforms = torch.from_numpy(np.stack([uniforms(key, max_tokens) for key in keys]))
        self.said = torch.zeros(len(prompts), max_tokens, dtype=torch.int64)
        self.logps = torch.zeros(len(prompts), max_tokens)
        self.lengths = torch.zeros(len(prompts), dtype=torch.int64)
        self.stopped = torch.zeros(len(prompts), dtype=torch.bool)
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])))
        self.who = torch.zeros(0, dtype=torch.int64)  # [W] the replies that are being written
        self.row = torch.zeros(0, dtype=torch.int64)  # [W] which row each follows
        self.tokens = torch.zeros(0, dtype=torch.int64)  # [B] each row's last token; 0 where nobody follows it any more

    def logits(self) -> Tensor | None:
        """Of each reply's next token [W, V], after reading the last ones and taking in who waits; None at the end."""
        rows = len(self.tokens)
        found = [self.state.step(self.tokens.to(self.device))] if rows else []
        if self.queue and (not rows or self._has_room()):
            some = self._next()
            where: dict[Prompt, int] = {}
            behind = [rows + where.setdefault(self.prompts[i], len(where)) for i in some]
            found.append(self.state.admit(list(where)))
            self.who = torch.cat([self.who, torch.tensor(some)])
            self.row = torch.cat([self.row, torch.tensor(behind)])
            self.tokens = torch.cat([self.tokens, torch.zeros(len(where), dtype=torch.int64)])
        if not found:
            return None
        logits = torch.cat(found)
        as_they_are = len(self.row) == len(logits) and bool((self.row == torch.arange(len(logits))).all())
        return logits if as_they_are else logits[self.row.to(self.device)]

    def _next(self) -> list[int]:
        """Who is taken in: as many as have room, the shortest prompts first; of one length where that must be."""
        some = [self.queue.popleft()]
        length = len(self.prompts[some[0]])
        while self.queue and len(self.who) + len(some) < self.rows:
            if not self.state.together and len(self.prompts[self.queue[0]]) != length:
                break
            some.append(self.queue.popleft())
        return some

    def _has_room(self) -> bool:
        """Whether others are taken in beside those that are being written."""
        return bool(self.queue) and self.state.refills and 2 * len(self.who) <= self.rows

    def say(self, tokens: Tensor, logps: Tensor) -> None:
        """Write down each reply's next token [W]."""
        place = self.lengths[self.who]
        self.said[self.who, place], self.logps[self.who, place] = tokens, logps
        self.lengths[self.who] += 1

    def go_on(self, tokens: Tensor, going: Tensor) -> None:
        """Let each row say what its replies that go on have said, [W] both; where they differ, it becomes several.

        Rows that nobody follows any more are dropped when they are many or somebody waits for their place, for that
        copies what is kept.
        """
        self.who, self.row, tokens = self.who[going], self.row[going], tokens[going]
        pairs, follows = (self.row * MANY + tokens).unique(return_inverse=True)
        source, said = pairs // MANY, pairs % MANY
        rows, followed = len(self.tokens), len(source.unique_consecutive())
        if followed < len(source) or (followed < rows and (self._has_room() or LEAVE * (rows - followed) >= rows)):
            self.state.keep(source.to(self.device))
            self.row, self.tokens = follows, said
        else:
            self.tokens = torch.zeros_like(self.tokens).index_copy_(0, source, said)

    def completions(self) -> list[Completion]:
        said, logps = self.said.tolist(), self.logps.tolist()
        return [
            Completion(tuple(ids[:n]), tuple(logp[:n]), "stop" if stopped else "length")
            for ids, logp, n, stopped in zip(said, logps, self.lengths.tolist(), self.stopped.tolist(), strict=True)
        ]
