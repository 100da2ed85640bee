"""Decode state of a batch: KV caches and next-token logits.

`PrefixShared` is for models of the Llama family: rows with the same prompt share one copy of its keys and values.
`selfplay.engines.transformers.decode.HFDecodeState` is for other models: it uses transformers' modules and one copy per
row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from selfplay.devices import sent, sizes_of
from selfplay.engines.engine import Prompt
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.graphs import RecordedSteps

LEAST, MOST = 4, 32  # bounds on the columns added at once; within them the cache doubles


class DecodeState(Protocol):
    """B rows, each a continuation of a prompt, that grow by one token per step."""

    refills: bool  # whether prompts can be admitted while other rows are decoded
    together: bool  # whether one call can admit prompts of different lengths

    def admit(self, prompts: Sequence[Prompt]) -> Tensor:
        """Prefill distinct prompts and add one row for each; return next-token logits [len(prompts), V].

        New rows are appended to the existing ones; if `refills` is false there must be none.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows [B'] (int64 on the CPU, ascending, possibly repeated); none resets the state."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, [B] on the device; return next-token logits [B, V]."""
        ...


class PrefixShared:
    """Decode state for the Llama family, with one copy of each prompt's keys and values.

    Which row belongs to which prompt is kept on the CPU, so that no step waits for the device.

    Args:
        decoder: the model.
        room: maximum number of generated tokens per row.
    """

    refills = together = True

    def __init__(self, decoder: Decoder, room: int) -> None:
        self.decoder, self.room = decoder, room
        device = decoder.device
        self.owner = torch.zeros(0, dtype=torch.int64)  # [B] index of each row's prompt
        self.begun = torch.zeros(0, dtype=torch.int64)  # [B] column of each row's first token
        self.lengths = torch.zeros(0, dtype=torch.int64)  # [N] length of each prompt
        self.now = 0  # column of the next token
        self.none = torch.zeros(2 * len(decoder.layers), 0, decoder.kv_heads, 0, decoder.head_dim, device=device)
        self.old = self.none  # prompt keys and values of each layer: [2 * layers, N, kv_heads, P, D]
        self.flat: list[tuple[Tensor, Tensor]] = []  # views of `old`: [N * kv_heads, D, P] and [N * kv_heads, P, D]
        self.new = self.none  # keys and values of generated tokens, [2 * layers, B, kv_heads, C, D]
        self.rotary_tables = decoder.rotary_tables(torch.arange(0, device=device))
        self.recorded = None if decoder.capture is None else RecordedSteps(decoder.capture)

    # --- prefill ------------------------------------------------------------------------------------------------------

    def admit(self, prompts: Sequence[Prompt]) -> Tensor:
        device = self.decoder.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        if longest + self.room > len(self.rotary_tables):
            self.rotary_tables = self.decoder.rotary_tables(torch.arange(longest + self.room, device=device))
        size = max(1, sizes_of(device).prefill // longest)
        shape = (len(self.old), len(prompts), self.decoder.kv_heads, longest, self.decoder.head_dim)
        read = torch.empty(shape, dtype=self.decoder.attention, device=device)
        states = [
            self._read(prompts[start : start + size], read[:, start : start + size])
            for start in range(0, len(prompts), size)
        ]
        self._join(read, lengths)
        return self.decoder.logits(torch.cat(states))

    def _read(self, prompts: Sequence[Prompt], read: Tensor) -> Tensor:
        """[N, H] the last layer's state of each prompt's last token; writes keys and values into `read`."""
        decoder, width = self.decoder, read.shape[3]
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        states, rotary_tables = decoder.embed(sent(ids, decoder.device)), self.rotary_tables[:width]
        ends = sent(torch.tensor([len(prompt) - 1 for prompt in prompts]), decoder.device)
        rows = torch.arange(len(prompts), device=decoder.device)
        for number, layer in enumerate(decoder.layers):
            every = decoder.qkv(layer, states, rotary_tables).to(decoder.attention).transpose(1, 2)
            queries, (keys, values) = every[:, : decoder.heads], every[:, decoder.heads :].chunk(2, 1)
            read[2 * number], read[2 * number + 1] = keys, values
            seen = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=decoder.scale, enable_gqa=True
            ).transpose(1, 2)
            if number + 1 == len(decoder.layers):  # the last layer needs one state per prompt
                states, seen = states[rows, ends], seen[rows, ends]
            states = decoder.after(layer, states, seen.flatten(-2))
        return states

    def _join(self, read: Tensor, lengths: Tensor) -> None:
        """Append prefilled prompts, with one row each."""
        owner = torch.arange(len(lengths))
        if len(self.owner) == 0:
            self.old, self.lengths, self.owner, self.now = read, lengths, owner, 0
            self.begun = torch.zeros_like(owner)
            self.new = read.new_zeros(len(read), len(owner), read.shape[2], self._more(), read.shape[4])
        else:
            self.old = _beside(self.old, read)
            self.owner = torch.cat([self.owner, owner + len(self.lengths)])
            self.begun = torch.cat([self.begun, torch.full_like(owner, self.now)])
            self.lengths = torch.cat([self.lengths, lengths])
            self.new = F.pad(self.new, (0, 0, 0, 0, 0, 0, 0, len(owner)))
        self._arrange()

    # --- decoding -----------------------------------------------------------------------------------------------------

    def keep(self, rows: Tensor) -> None:
        if self.recorded is not None:
            self.recorded.rows_moved()  # a recording holds the memory that is replaced here
        self.owner, self.begun = self.owner[rows], self.begun[rows]
        if len(rows) == 0:
            self.old, self.new, self.flat = self.none, self.none, []  # frees their memory
            return
        first = int(self.begun.min())
        self.begun, self.now = self.begun - first, self.now - first
        self.new = _of_rows(self.new[:, :, :, first:], rows)
        followed, self.owner = self.owner.unique(return_inverse=True)
        if len(followed) < len(self.lengths):
            self.lengths = self.lengths[followed]
            self.old = _of_rows(self.old[:, :, :, : int(self.lengths.max())], followed)
        self._arrange()

    def _more(self) -> int:
        return max(LEAST, min(MOST, self.now))

    def _arrange(self) -> None:
        """Assign rows to an [N, G] grid, grouped by prompt; prompts with fewer than G rows leave slots empty."""
        device, width = self.decoder.device, self.old.shape[3]
        if self.recorded is not None:
            self.recorded.rows_moved()
        order = self.owner.argsort(stable=True)
        counts = self.owner.bincount(minlength=len(self.lengths))
        within = torch.arange(len(order)) - (counts.cumsum(0) - counts)[self.owner[order]]
        self.most = int(counts.max())
        places = torch.empty_like(order)
        places[order] = self.owner[order] * self.most + within
        self.in_order = len(order) == self.most * len(self.lengths) and bool((places == torch.arange(len(order))).all())
        self.places = sent(places, device)
        self.ragged = bool((self.lengths < width).any())
        short = torch.arange(width, device=device) >= sent(self.lengths, device)[:, None]
        self.hidden = torch.zeros(short.shape, device=device).masked_fill(short, -torch.inf)[:, None]
        self.mixed = bool((self.begun != self.begun[0]).any())
        self.first = sent(self.begun, device)
        self.offsets = sent(self.lengths[self.owner] - self.begun, device)  # a token's position minus its column
        flat = [old.flatten(0, 1) for old in self.old]
        self.flat = [(keys.transpose(1, 2), values) for keys, values in zip(flat[::2], flat[1::2], strict=True)]

    def step(self, tokens: Tensor) -> Tensor:
        if self.now == self.new.shape[3]:
            self.new = F.pad(self.new, (0, 0, 0, self._more()))
            if self.recorded is not None:
                self.recorded.cache_moved()
        logits = None if self.recorded is None else self.recorded.step(self, tokens)
        if logits is None:
            logits = self._step(tokens, self.now, self.now + 1, self._early() if self.mixed else None)
        self.now += 1
        return logits

    def fixed_step(self, tokens: Tensor, now: Tensor) -> Tensor:
        """A step whose shapes and memory do not depend on `now` [1], the column of the tokens, on the device."""
        columns = torch.arange(self.new.shape[3], device=tokens.device)
        outside = (columns > now) | (columns < self.first[:, None])
        return self._step(tokens, now, len(columns), _hiding(outside))

    def _early(self) -> Tensor:
        return _hiding(torch.arange(self.now + 1, device=self.decoder.device) < self.first[:, None])

    def _step(self, tokens: Tensor, now: int | Tensor, width: int, unseen: Tensor | None) -> Tensor:
        """A step at column `now` that attends to the first `width` columns, except where `unseen` is -inf."""
        decoder = self.decoder
        at = (self.offsets + now).clamp_(max=len(self.rotary_tables) - 1)  # clamped for finished rows
        rotary_tables = self.rotary_tables[at]
        states = decoder.embed(tokens)
        for layer, old, own in zip(decoder.layers, self.flat, self.new.unflatten(0, (-1, 2)), strict=True):
            every = decoder.qkv(layer, states, rotary_tables)
            written = every[:, decoder.heads :].unflatten(1, (2, -1)).transpose(0, 1)
            if isinstance(now, int):
                own[:, :, :, now] = written
            else:
                own.index_copy_(3, now, written[:, :, :, None].to(own.dtype))
            queries = (every[:, : decoder.heads] * decoder.scale).to(decoder.attention)
            states = decoder.after(layer, states, self._attend(queries, *old, own[..., :width, :], unseen))
        return decoder.logits(states)

    def _attend(
        self, queries: Tensor, old_keys: Tensor, old_values: Tensor, own: Tensor, unseen: Tensor | None
    ) -> Tensor:
        """[B, heads * D] attention of each row, with scaled queries, to its prompt and to its own generated tokens."""
        rows, kv_heads, (width, size) = len(queries), own.shape[2], old_values.shape[1:]
        queries = queries.view(rows, kv_heads, -1, size)
        own_keys, own_values = own[0].flatten(0, 1), own[1].flatten(0, 1)
        far = _scores(self._by_prompt(queries), old_keys)  # [N * kv_heads, G * heads / kv_heads, P]
        if self.ragged:
            far.view(len(self.lengths), -1, width).add_(self.hidden)
        near = _scores(queries.flatten(0, 1), own_keys.transpose(1, 2))  # [B * kv_heads, heads / kv_heads, C]
        if unseen is not None:
            near.view(rows, -1, near.shape[-1]).add_(unseen)
        weights = torch.cat([self._by_row(far), near.view(rows, kv_heads, *near.shape[1:])], -1).softmax(-1)
        weights = weights.to(old_values.dtype)
        seen = self._by_row(torch.bmm(self._by_prompt(weights[..., :width]), old_values))
        return (seen + torch.bmm(weights[..., width:].flatten(0, 1), own_values).view(seen.shape)).reshape(rows, -1)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """[B, kv_heads, h, d] by row -> [N * kv_heads, G * h, d] by prompt."""
        if not self.in_order:
            x = x.new_zeros(len(self.lengths) * self.most, *x.shape[1:]).index_copy_(0, self.places, x)
        x = x.view(len(self.lengths), self.most, *x.shape[1:]).transpose(1, 2)
        return x.reshape(-1, self.most * x.shape[3], x.shape[4])

    def _by_row(self, x: Tensor) -> Tensor:
        """Inverse of `_by_prompt`."""
        x = x.view(len(self.lengths), -1, self.most, x.shape[1] // self.most, x.shape[2]).transpose(1, 2).flatten(0, 1)
        return x if self.in_order else x[self.places]


def _hiding(hidden: Tensor) -> Tensor:
    """[B, 1, C] additive mask from flags [B, C]."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)[:, None]


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """[K, M, N] float32 products of queries [K, M, D] and keys [K, D, N]: in bfloat16 a score of 16 is off by 0.06."""
    if queries.dtype == torch.float32:
        return torch.bmm(queries, keys)
    if queries.is_cuda:
        return torch.bmm(queries, keys, out_dtype=torch.float32)  # the products need no copies in float32
    return torch.bmm(queries.float(), keys.float())


def _of_rows(x: Tensor, rows: Tensor) -> Tensor:
    """[K, B', ...] equal to x[:, rows] for x [K, B, ...], in a fifth to a half of the time."""
    places = sent(torch.arange(len(x))[:, None] * x.shape[1] + rows, x.device)
    found: Tensor = x.flatten(0, 1).index_select(0, places.view(-1)).unflatten(0, places.shape)
    return found


def _beside(one: Tensor, other: Tensor) -> Tensor:
    """Concatenate prompts to [K, N + M, kv_heads, P, D], padding the shorter ones."""
    width = max(one.shape[3], other.shape[3])
    return torch.cat([F.pad(x, (0, 0, 0, width - x.shape[3])) for x in (one, other)], 1)
