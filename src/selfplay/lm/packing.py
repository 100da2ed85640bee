"""Prompts read once: the replies to one prompt side by side behind it, each blind to the others.

A row is [prompt, reply 1, reply 2, ...] under a tree-shaped mask, so that G answers to one question cost one reading of
the question; a reply that was given twice is computed once. What comes out equals one row a reply (tests/test_packing).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

SHARE = 0.75  # the share of prompts that fit into one row with all their replies; longer ones take several rows
CAP = 512  # tokens of a row of several replies, unless two of the longest need more: attention grows with the square
PROBE = 320  # tokens, longer than the local windows of older architectures
_packs: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass, and where to look for each reply.

    Attributes:
        ids: [R, L] int64, 0 where there is padding (on the right).
        positions: [R, L] int64, each reply's as if it alone followed its prompt.
        segments: [R, L] int64: 0 the prompt, k the k-th reply of the row, -1 padding.
        rows: [D, T] the row of each token of each distinct reply.
        columns: [D, T] the column that predicts it.
        replies: [D, T] int64, the distinct replies.
        mask: [D, T] bool.
        owner: [B] which distinct reply is the batch's b-th.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    rows: Tensor
    columns: Tensor
    replies: Tensor
    mask: Tensor
    owner: Tensor

    def attention(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, L, L], added to the scores: 0 where a token may look, the least number where not."""
        look = (self.segments[:, None, :] == self.segments[:, :, None]) | (self.segments[:, None, :] == 0)
        look &= torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return torch.zeros_like(look, dtype=dtype).masked_fill_(~look, torch.finfo(dtype).min)[:, None]

    def to(self, device: torch.device) -> "Packed":
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the model obeys a mask and positions of ours: by its config, and by a trial of a few hundred tokens."""
    if model not in _packs:
        takes_masks = model.config.get_text_config()._attn_implementation in ("sdpa", "eager")
        with torch.autocast(model.device.type, enabled=False):
            _packs[model] = full_attention(model) and takes_masks and trial(model, under_mask)
    return _packs[model]


def under_mask(model: PreTrainedModel, packed: Packed) -> Tensor:
    """[R, L, H] the last hidden states of packed rows, under a tree-shaped mask."""
    states: Tensor = model.get_decoder()(
        input_ids=packed.ids,
        attention_mask=packed.attention(model.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states


@torch.no_grad()
def trial(model: PreTrainedModel, states_of: Callable[[PreTrainedModel, Packed], Tensor]) -> bool:
    """Whether the second of two replies in a row has the states that it has alone."""
    config = model.config.get_text_config()
    length = min(PROBE, getattr(config, "max_position_embeddings", None) or PROBE)
    ids = torch.arange(1, length + 1) % config.vocab_size
    prompt, one, two = ids[: length // 2], ids[length // 2 : -9], ids[-9:]
    width = length - length // 2
    replies = torch.stack([torch.nn.functional.pad(x, (0, width - len(x))) for x in (one, two)])
    packed = pack([prompt, prompt], replies, torch.arange(width) < torch.tensor([[len(one)], [len(two)]]), length)
    alone = torch.cat([prompt, two])[None].to(model.device)
    try:
        states = states_of(model, packed.to(model.device))[0, -9:]
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError):  # a mask of this shape is not for it
        return False
    plain = model.get_decoder()(input_ids=alone, use_cache=False).last_hidden_state[0, -9:]
    apart = min(0.1, 50 * torch.finfo(model.dtype).eps ** 0.75)  # in bfloat16: 0.01 and 0.8
    return bool((states - plain).float().norm() <= apart * plain.float().norm())


def full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer looks at all that came before, by the config."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and window is None


def pack(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor, cap: int = CAP) -> Packed:
    """Lay B replies behind their prompts.

    Args:
        prompts: B ragged int64 vectors.
        replies, mask: [B, T], as in `Batch`.
        cap: tokens of a row with several replies, unless two of the longest need more.
    """
    said = [tuple(reply[keep].tolist()) for reply, keep in zip(replies, mask, strict=True)]
    numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    owner = [numbers.setdefault((tuple(p.tolist()), r), len(numbers)) for p, r in zip(prompts, said, strict=True)]
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for (prompt, reply), number in numbers.items():
        groups.setdefault(prompt, []).append((number, reply))
    laid = _lay(groups, cap)
    width = max(len(prompt) + sum(len(reply) for _, reply in members) for prompt, members in laid)
    ids, positions = (torch.zeros(len(laid), width, dtype=torch.int64) for _ in range(2))
    segments = torch.full((len(laid), width), -1)
    longest = mask.shape[1]
    rows, columns, distinct = (torch.zeros(len(numbers), longest, dtype=torch.int64) for _ in range(3))
    there = torch.zeros(len(numbers), longest, dtype=torch.bool)
    for row, (prompt, members) in enumerate(laid):
        end = len(prompt)
        ids[row, :end], positions[row, :end], segments[row, :end] = torch.tensor(prompt), torch.arange(end), 0
        for k, (number, reply) in enumerate(members, start=1):
            n = len(reply)
            ids[row, end : end + n] = distinct[number, :n] = torch.tensor(reply)
            positions[row, end : end + n] = torch.arange(len(prompt), len(prompt) + n)
            segments[row, end : end + n] = k
            rows[number, :n], there[number, :n] = row, True
            columns[number, :n] = torch.arange(end - 1, end + n - 1)
            columns[number, 0] = len(prompt) - 1
            end += n
    return Packed(ids, positions, segments, rows, columns, distinct, there, torch.tensor(owner))


def _lay(
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]], cap: int
) -> list[tuple[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]]:
    """A prompt and some of its replies for each row; rows are about as long as one another, so little is padding."""
    longest = max(len(prompt) + len(reply) for prompt, members in groups.items() for _, reply in members)
    totals = sorted(len(prompt) + sum(len(reply) for _, reply in members) for prompt, members in groups.items())
    budget = max(longest, min(max(cap, 2 * longest), totals[int(SHARE * (len(totals) - 1))]))
    laid = []
    for prompt, members in groups.items():
        row: list[tuple[int, tuple[int, ...]]] = []
        room = budget - len(prompt)
        for number, reply in members:
            if len(reply) > room:
                laid.append((prompt, row))
                row, room = [], budget - len(prompt)
            row.append((number, reply))
            room -= len(reply)
        laid.append((prompt, row))
    return laid
