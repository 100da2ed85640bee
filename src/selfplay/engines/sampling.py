"""Batched sampling: shared prefixes are decoded once, finished rows are dropped, each reply has its own uniforms."""

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
from selfplay.devices import sent
from selfplay.engines.engine import Completion, Prompt, Sampling
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.kv_sharing import DecodeState, PrefixShared
from selfplay.engines.mixture import MixedModel
from selfplay.engines.transformers.decode import HFDecodeState
from selfplay.engines.truncation import ALL, Truncation

BLOCK = 256  # tokens per block when the cumulative distribution is inverted in two levels
MANY = 1 << 32  # larger than any token id
LEAVE = 8  # unused rows are dropped once they are 1/LEAVE of the batch


def uniforms(key: str, count: int) -> np.ndarray:
    """[count] float64 uniforms in [0, 1), a pure function of the key."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def choose(logits: Tensor, uniforms: Tensor, temperature: float, truncation: Truncation = ALL) -> tuple[Tensor, Tensor]:
    """Sample by inverting the cumulative distribution.

    Args:
        logits: [B, V].
        uniforms: [B] float64 in [0, 1).
        temperature: > 0, or 0 for the argmax token with its log-probability at temperature 1.
        truncation: top-k, top-p and min-p filtering.

    Returns:
        Token [B] int64, and its log-probability [B] float32 under the truncated softmax(logits / temperature).

    Raises:
        SelfplayError: a logit is NaN or +inf.
    """
    token, logp = _chosen(logits, uniforms, temperature, truncation)
    _check_finite(logp)
    return token, logp


def _chosen(logits: Tensor, uniforms: Tensor, temperature: float, truncation: Truncation) -> tuple[Tensor, Tensor]:
    """As `choose`, without waiting for the device; the log-probability is not finite where a logit is NaN or +inf."""
    logits = truncation(logits.float() / (temperature or 1.0))
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    blocks = None if weights.shape[-1] <= BLOCK else _blocks(weights)
    sums = weights.cumsum(-1, dtype=torch.float64) if blocks is None else blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        points = sent(uniforms, logits.device) * sums[:, -1]
        token = _above(sums, points) if blocks is None else _invert(blocks, sums, points)
    return token, ((logits.gather(-1, token[:, None]) - most).squeeze(-1) - sums[:, -1].log()).float()


def _check_finite(logps: Tensor) -> None:
    if not bool(logps.isfinite().all()):
        raise SelfplayError(
            "the model's logits are NaN or infinite, so no token can be sampled; resume from an earlier checkpoint, "
            "or start a new run with a lower update.optimizer.lr"
        )


def _fetched(tokens: Tensor, logps: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, by a single copy: the only wait for the device in a token step."""
    if tokens.device.type == "cpu":
        return tokens, logps
    both = torch.stack([tokens.double(), logps.double()]).cpu()  # float64 holds either exactly
    return both[0].long(), both[1].float()


def _blocks(weights: Tensor) -> Tensor:
    """[B, K, BLOCK] the weights [B, V], zero-padded at the end."""
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % BLOCK))
    return padded.view(len(weights), -1, BLOCK)


def _invert(blocks: Tensor, sums: Tensor, points: Tensor) -> Tensor:
    """[B] the first token at which the cumulative weight exceeds the point [B].

    Searches the blocks by their cumulative sums [B, K], then within one of the blocks [B, K, BLOCK].
    """
    block = _above(sums, points)
    before = sums.gather(-1, (block - 1).clamp(min=0)[:, None])[:, 0].masked_fill(block == 0, 0.0)
    within = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.float64)
    return block * BLOCK + _above(within, points - before)


def _above(sums: Tensor, points: Tensor) -> Tensor:
    """[B] index of the first cumulative sum [B, K] above the point, or the last index for points beyond it."""
    points = torch.minimum(points, sums[:, -1] * (1 - 2.0**-50)).clamp_(min=0)
    found = torch.searchsorted(sums, points[:, None], right=True)[:, 0]
    return found.clamp_(max=sums.shape[-1] - 1)  # past the end where a sum is NaN, which is reported later


def sample(
    model: PreTrainedModel | MixedModel | Decoder, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
) -> list[Completion]:
    """Sample one completion per prompt; it depends only on its prompt, its key and the model, up to rounding.

    Args:
        model: see `selfplay.engines.llama.kv_sharing`; a `Decoder` is faster, and refills finished rows from the queue.
        prompts: token ids.
        keys: one key per prompt, which determines its uniforms.
        sampling: see `Sampling`.
    """
    ours = isinstance(model, Decoder)  # unlike other modules, it caches no inference-mode tensors
    with (
        torch.inference_mode() if ours else torch.no_grad(),
        torch.autocast(model.device.type, enabled=False) if ours else nullcontext(),
    ):
        decoding = _DecodeBatch(model, prompts, keys, sampling)
        stops = torch.tensor(sampling.stop_ids, dtype=torch.int64)
        while (logits := decoding.logits()) is not None:
            active = decoding.active
            points = decoding.uniforms[active, decoding.lengths[active]]
            tokens, logps = _fetched(*_chosen(logits, points, sampling.temperature, sampling.truncation))
            _check_finite(logps)
            decoding.append(tokens, logps)
            stopped = torch.isin(tokens, stops)
            if sampling.ended is not None:
                for i in (~stopped).nonzero()[:, 0].tolist():
                    stopped[i] = sampling.ended(decoding.sampled[active[i], : decoding.lengths[active[i]]].tolist())
            decoding.stopped[active] = stopped
            decoding.advance(tokens, ~stopped & (decoding.lengths[active] < sampling.max_tokens))
    return decoding.completions()


class _DecodeBatch:
    """State of a batch: sampled tokens, the queue of waiting prompts, and the row that each reply is decoded in.

    Replies to the same prompt share a row for as long as their tokens are identical.
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
        self.sampled = torch.zeros(len(prompts), max_tokens, dtype=torch.int64)
        self.logps = torch.zeros(len(prompts), max_tokens)
        self.lengths = torch.zeros(len(prompts), dtype=torch.int64)
        self.stopped = torch.zeros(len(prompts), dtype=torch.bool)
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i])))
        self.active = torch.zeros(0, dtype=torch.int64)  # [W] the replies being decoded
        self.row = torch.zeros(0, dtype=torch.int64)  # [W] the row of each
        self.tokens = torch.zeros(0, dtype=torch.int64)  # [B] each row's last token; 0 if unused

    def logits(self) -> Tensor | None:
        """[W, V] next-token logits, after a decoding step and admitting prompts from the queue; None at the end."""
        rows = len(self.tokens)
        found = [self.state.step(sent(self.tokens, self.device))] if rows else []
        if self.queue and (not rows or self._has_room()):
            some = self._next()
            where: dict[Prompt, int] = {}
            rows_of = [rows + where.setdefault(self.prompts[i], len(where)) for i in some]
            found.append(self.state.admit(list(where)))
            self.active = torch.cat([self.active, torch.tensor(some)])
            self.row = torch.cat([self.row, torch.tensor(rows_of)])
            self.tokens = torch.cat([self.tokens, torch.zeros(len(where), dtype=torch.int64)])
        if not found:
            return None
        logits = torch.cat(found)
        identity = len(self.row) == len(logits) and bool((self.row == torch.arange(len(logits))).all())
        return logits if identity else logits[sent(self.row, self.device)]

    def _next(self) -> list[int]:
        """The next replies to admit, shortest prompts first; of equal length if the model does not support padding."""
        some = [self.queue.popleft()]
        length = len(self.prompts[some[0]])
        while self.queue and len(self.active) + len(some) < self.rows:
            if not self.state.together and len(self.prompts[self.queue[0]]) != length:
                break
            some.append(self.queue.popleft())
        return some

    def _has_room(self) -> bool:
        """Whether waiting prompts can be admitted to the running batch."""
        return bool(self.queue) and self.state.refills and 2 * len(self.active) <= self.rows

    def append(self, tokens: Tensor, logps: Tensor) -> None:
        """Store the next token [W] of each active reply, and its log-probability [W]."""
        place = self.lengths[self.active]
        self.sampled[self.active, place], self.logps[self.active, place] = tokens, logps
        self.lengths[self.active] += 1

    def advance(self, tokens: Tensor, going: Tensor) -> None:
        """Set each row's next input token; a row whose replies diverge is split.

        Unused rows are dropped only when there are many or prompts are waiting, because dropping copies the cache.

        Args:
            tokens: [W] the tokens just sampled.
            going: [W] bool, the replies that continue.
        """
        self.active, self.row, tokens = self.active[going], self.row[going], tokens[going]
        pairs, follows = (self.row * MANY + tokens).unique(return_inverse=True)
        source, sampled = pairs // MANY, pairs % MANY
        rows, followed = len(self.tokens), len(source.unique_consecutive())
        if followed < len(source) or (followed < rows and (self._has_room() or LEAVE * (rows - followed) >= rows)):
            self.state.keep(source)
            self.row, self.tokens = follows, sampled
        else:
            self.tokens = torch.zeros_like(self.tokens).index_copy_(0, source, sampled)

    def completions(self) -> list[Completion]:
        sampled, logps = self.sampled.tolist(), self.logps.tolist()
        return [
            Completion(tuple(ids[:n]), tuple(logp[:n]), "stop" if stopped else "length")
            for ids, logp, n, stopped in zip(sampled, logps, self.lengths.tolist(), self.stopped.tolist(), strict=True)
        ]
