"""Prompts read once: the replies to one prompt side by side behind it, each blind to the others.

A tree is [prompt, reply 1, reply 2, ...] under a mask of that shape, so that G answers to one question cost one reading
of the question; a reply that was given twice is computed once. Short trees share a row, so that little is padding. What
comes out equals one row a reply (tests/test_packing).
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

SHARE = 0.75  # the share of prompts that fit into one tree with all their replies; longer ones take several
CAP = 512  # tokens of a tree of several replies, unless two of the longest need more: attention grows with the square
WIDER = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)  # rows are so many times as long as the longest tree,
EVEN = 1024  # whichever costs least: a token costs as much as attention to so many places of its row
PROBES = (320, 90)  # tokens: more than the local windows of older architectures, and few enough for `trunk._Written`
_packs: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass, and where to look for each reply.

    Attributes:
        ids: [R, L] int64, 0 where there is padding (on the right).
        positions: [R, L] int64, each reply's as if it alone followed its prompt.
        segments: [R, L] int64, prompts and replies of a row numbered from 0, -1 padding.
        roots: [R, L] int64, the segment of each token's prompt, -1 padding.
        rows: [D, T] the row of each token of each distinct reply.
        columns: [D, T] the column that predicts it.
        replies: [D, T] int64, the distinct replies.
        mask: [D, T] bool.
        owner: [B] which distinct reply is the batch's b-th.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    roots: Tensor
    rows: Tensor
    columns: Tensor
    replies: Tensor
    mask: Tensor
    owner: Tensor

    def attention(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, L, L], added to the scores: 0 where a token may look, the least number where not."""
        here = self.segments[:, None, :]
        look = (here == self.segments[:, :, None]) | (here == self.roots[:, :, None])
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


def under_mask(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    """[M, H] the last hidden states at places of packed rows, by transformers' modules under a tree-shaped mask."""
    states: Tensor = model.get_decoder()(
        input_ids=packed.ids,
        attention_mask=packed.attention(model.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states[rows, columns]


@torch.no_grad()
def trial(model: PreTrainedModel, states_at: Callable[[PreTrainedModel, Packed, Tensor, Tensor], Tensor]) -> bool:
    """Whether the second of two replies in a row has the states that it has alone, in a long row and in a short one."""
    return all(_is_alone(model, states_at, length) for length in PROBES)


def _is_alone(model: PreTrainedModel, states_at: Callable[..., Tensor], most: int) -> bool:
    config = model.config.get_text_config()
    length = min(most, getattr(config, "max_position_embeddings", None) or most)
    ids = torch.arange(1, length + 1) % config.vocab_size
    prompt, one, two = ids[: length // 2], ids[length // 2 : -9], ids[-9:]
    width = length - length // 2
    replies = torch.stack([torch.nn.functional.pad(x, (0, width - len(x))) for x in (one, two)])
    packed = pack([prompt, prompt], replies, torch.arange(width) < torch.tensor([[len(one)], [len(two)]]), length)
    packed, alone = packed.to(model.device), torch.cat([prompt, two])[None].to(model.device)
    last = torch.arange(packed.ids.shape[1], device=model.device)[-9:]
    try:
        states = states_at(model, packed, torch.zeros_like(last), last)
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


def pack(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor, whole: int | None = None) -> Packed:
    """Lay B replies behind their prompts.

    Args:
        prompts: B ragged int64 vectors.
        replies, mask: [B, T], as in `Batch`.
        whole: each tree has a row of its own, and as many replies as go into so many tokens; None: trees are as even
            and as short as `masked_cost` likes them, and share rows.
    """
    lengths = mask.sum(1).tolist()
    said = [tuple(reply[:n]) for reply, n in zip(replies.tolist(), lengths, strict=True)]
    numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    owner = [numbers.setdefault((tuple(p.tolist()), r), len(numbers)) for p, r in zip(prompts, said, strict=True)]
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for (prompt, reply), number in numbers.items():
        groups.setdefault(prompt, []).append((number, reply))
    laid, width = _rows(_trees(groups, whole), whole is not None)
    ids, positions = ([[0] * width for _ in laid] for _ in range(2))
    segments, roots = ([[-1] * width for _ in laid] for _ in range(2))
    longest = mask.shape[1]
    rows, columns, distinct = ([[0] * longest for _ in numbers] for _ in range(3))
    for row, trees in enumerate(laid):
        end, segment = 0, 0
        for prompt, members in trees:
            root, start, read = segment, end, len(prompt)
            for number, reply in ((-1, prompt), *members):
                n, first = len(reply), 0 if number < 0 else read
                here = slice(end, end + n)
                ids[row][here], positions[row][here] = reply, range(first, first + n)
                segments[row][here], roots[row][here] = [segment] * n, [root] * n
                if number >= 0 and n:
                    rows[number][:n], distinct[number][:n] = [row] * n, reply
                    columns[number][:n] = start + read - 1, *range(end, end + n - 1)
                end += n
                segment += 1
    counts = torch.tensor([len(reply) for _, reply in numbers])
    return Packed(
        torch.tensor(ids),
        torch.tensor(positions),
        torch.tensor(segments),
        torch.tensor(roots),
        torch.tensor(rows),
        torch.tensor(columns),
        torch.tensor(distinct),
        torch.arange(longest) < counts[:, None],
        torch.tensor(owner),
    )


Group = tuple[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]  # a prompt, and replies with their numbers


def _trees(groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]], whole: int | None) -> list[Group]:
    """A prompt and some of its replies each; but for `whole`, trees are about as long as one another."""
    longest = max(len(prompt) + len(reply) for prompt, members in groups.items() for _, reply in members)
    totals = sorted(len(prompt) + sum(len(reply) for _, reply in members) for prompt, members in groups.items())
    even = min(max(CAP, 2 * longest), totals[int(SHARE * (len(totals) - 1))])
    budget = max(longest, whole or even)
    trees = []
    for prompt, members in groups.items():
        tree: list[tuple[int, tuple[int, ...]]] = []
        room = budget - len(prompt)
        for number, reply in members:
            if len(reply) > room:
                trees.append((prompt, tree))
                tree, room = [], budget - len(prompt)
            tree.append((number, reply))
            room -= len(reply)
        trees.append((prompt, tree))
    return trees


def most_of_a_tree(prompts: Sequence[Tensor], mask: Tensor) -> int:
    """Tokens of a prompt with all its replies [B, T] (those that were given twice, too), of the prompt with most."""
    totals: Counter[tuple[int, ...]] = Counter()
    for prompt, length in zip(prompts, mask.sum(1).tolist(), strict=True):
        totals[tuple(prompt.tolist())] += length
    return max(len(prompt) + length for prompt, length in totals.items())


def masked_cost(rows: int, length: int) -> float:
    """What reading so many rows of so many tokens costs under a mask, in pairs of tokens that are compared."""
    return rows * length * (length + EVEN)


def _rows(trees: Sequence[Group], apart: bool) -> tuple[list[list[Group]], int]:
    """The trees of each row, and the tokens of the longest row: of several lengths the one that costs least."""
    sizes = [len(prompt) + sum(len(reply) for _, reply in members) for prompt, members in trees]
    alone = [[i] for i in range(len(trees))]
    tried = [alone] if apart else [_fill(sizes, int(wider * max(sizes))) for wider in WIDER]
    widths = [max(sum(sizes[i] for i in row) for row in rows) for rows in tried]
    costs = [masked_cost(len(rows), width) for rows, width in zip(tried, widths, strict=True)]
    best = costs.index(min(costs))
    return [[trees[i] for i in row] for row in tried[best]], widths[best]


def _fill(sizes: Sequence[int], width: int) -> list[list[int]]:
    """What is in each row of at most `width`: the longest first, each where the least room is left (best fit)."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # rising: room that is left, which row
    for i in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        place = bisect_left(rooms, (sizes[i], -1))
        if place == len(rooms):
            rows.append([])
            rooms.append((width, len(rows) - 1))
            place = len(rooms) - 1
        room, row = rooms.pop(place)
        rows[row].append(i)
        insort(rooms, (room - sizes[i], row))
    return [sorted(row) for row in rows]
