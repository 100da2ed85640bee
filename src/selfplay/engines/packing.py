"""Prompts read once: the replies to one prompt side by side behind it, each blind to the others.

A tree is [prompt, reply 1, reply 2, ...] under a mask of that shape, so that G answers to one question cost one reading
of the question; a reply that was given twice is computed once. Short trees share a row, so that little is padding. What
comes out equals one row a reply (tests/test_packing).
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from math import inf
from sys import modules
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from selfplay.models.structure import body_of
from selfplay.models.trial import alike, passes

SHARE = 0.75  # the share of prompts that fit into one tree with all their replies; longer ones take several
CAP = 512  # tokens of a tree of several replies, unless two of the longest need more: attention grows with the square
WIDER = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)  # rows are so many times as long as the longest tree,
EVEN = 1024  # whichever costs least: a token costs as much as attention to so many places of its row
LONG = 400  # tokens of a row that is read branch by branch; shorter ones are as fast under the mask, in bfloat16 faster
WHOLE = 8192  # tokens of such a row at most
# Tokens of the trial's rows: more than the local windows of older architectures; few enough for `_EagerAttention`.
PROBES = (320, 90)


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
        replies: [D, T] int64, the distinct replies, whatever is behind their ends.
        mask: [D, T] bool.
        owner: [B] which distinct reply is the batch's b-th.
        branched: whether each row is one tree, and attention is to go branch by branch where it can.
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
    branched: bool = False

    def attention(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, L, L], added to the scores: 0 where a token may look, the least number where not."""
        here = self.segments[:, None, :]
        visible = (here == self.segments[:, :, None]) | (here == self.roots[:, :, None])
        visible &= torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def to(self, device: torch.device) -> "Packed":
        moved: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def obeys_masks(model: PreTrainedModel) -> bool:
    """Whether the model obeys a mask and positions of ours: by its parts, and by a trial of a few hundred tokens."""
    return full_attention(model) and _takes_masks(model) and passes(model, "packed", lambda m: trial(m, under_mask))


def _takes_masks(model: PreTrainedModel) -> bool:
    """Whether the model can be given a mask [R, 1, L, L] and positions.

    Models whose masks come from `transformers.masking_utils.create_causal_mask` take one of that shape as it is. Others
    make their own of the kind [R, L] (BLOOM, MPT), or know no positions but those of their rows.
    """
    body = body_of(model)
    given = signature(body.forward).parameters
    makes_masks = hasattr(modules[type(body).__module__], "create_causal_mask")
    kernel = model.config.get_text_config()._attn_implementation
    return makes_masks and {"attention_mask", "position_ids"} <= set(given) and kernel in ("sdpa", "eager")


def under_mask(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    """[M, H] the last hidden states at places of packed rows, by transformers' modules under a tree-shaped mask."""
    states: Tensor = body_of(model)(
        input_ids=packed.ids,
        attention_mask=packed.attention(model.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states[rows, columns]


def trial(model: PreTrainedModel, states_at: Callable[..., Tensor], branched: bool = False) -> bool:
    """Whether replies in rows with others have the states that they have alone, in long rows and in short ones.

    Args:
        states_at: (model, packed, rows, columns) -> [M, H].
        branched: whether each prompt has a row of its own.
    """
    return all(_is_alone(model, states_at, length, branched) for length in PROBES)


def _is_alone(model: PreTrainedModel, states_at: Callable[..., Tensor], most: int, branched: bool) -> bool:
    """Two replies to one prompt, the second behind the first, and one to a shorter prompt, in the row of the others
    unless each prompt has its own."""
    config = model.config.get_text_config()
    length = min(most, getattr(config, "max_position_embeddings", None) or most)
    ids = torch.arange(1, length + 1) % config.vocab_size
    prompt, short = ids[: length // 2], ids[3 : 3 + length // 5]
    prompts, said = [prompt, prompt, short], [ids[length // 2 : -9], ids[-9:], ids[-16:-9]]
    replies = pad_sequence(said, batch_first=True)
    mask = torch.arange(replies.shape[1]) < torch.tensor(list(map(len, said)))[:, None]
    planner = PackingPlanner(prompts, replies, mask)
    plan = planner.apart()
    if not branched:
        trees = [tree for row in plan.rows for tree in row]
        plan = Plan([trees], sum(map(_size, trees)), branched=False)
    packed = planner.packed(plan).to(model.device)
    there = packed.mask
    ours = states_at(model, packed, packed.rows[there], packed.columns[there]).split(list(map(len, said)))
    texts = [torch.cat([p, r]) for p, r in zip(prompts, said, strict=True)]
    plain = [body_of(model)(input_ids=text[None].to(model.device), use_cache=False) for text in texts]
    alone = [
        out.last_hidden_state[0, len(p) - 1 : len(p) + len(r) - 1]
        for out, p, r in zip(plain, prompts, said, strict=True)
    ]
    return all(alike(a, b, model.dtype) for a, b in zip(ours, alone, strict=True))


def full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer looks at all that came before, by the config."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and window is None


def pack(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> Packed:
    """Lay B replies behind their prompts, in the rows that cost least under a mask; see `PackingPlanner`."""
    planner = PackingPlanner(prompts, replies, mask)
    return planner.packed(planner.close())


Ids = tuple[int, ...]
Group = tuple[Ids, list[tuple[int, int]]]  # a prompt, and the number and the length of some of its replies


@dataclass(frozen=True)
class Plan:
    """Which trees share a row, the tokens of the longest row, and whether attention is to go branch by branch."""

    rows: list[list[Group]]
    width: int
    branched: bool


class PackingPlanner:
    """Replies by their prompts; one that was given twice is there once.

    Args:
        prompts: B ragged int64 vectors.
        replies, mask: [B, T], as in `Batch`.
    """

    def __init__(self, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> None:
        self.replies, self.lengths = replies.cpu(), mask.sum(1).cpu()
        self.owner: list[int] = []  # [B] which distinct reply
        self.first: list[int] = []  # [D] where it comes first
        self.groups: dict[Ids, list[tuple[int, int]]] = {}
        numbers: dict[tuple[Ids, Ids], int] = {}
        for prompt, reply, n in zip(prompts, self.replies.tolist(), self.lengths.tolist(), strict=True):
            read = tuple(prompt.tolist())
            number = numbers.setdefault((read, tuple(reply[:n])), len(numbers))
            if number == len(self.first):
                self.first.append(len(self.owner))
                self.groups.setdefault(read, []).append((number, n))
            self.owner.append(number)
        self.longest = max(len(prompt) + n for prompt, members in self.groups.items() for _, n in members)

    def close(self) -> Plan:
        """Trees of like length, several to a row: of several widths of a row the one that costs least under a mask."""
        totals = sorted(map(_size, self.groups.items()))
        trees = self._trees(min(max(CAP, 2 * self.longest), totals[int(SHARE * (len(totals) - 1))]))
        sizes = list(map(_size, trees))
        tried = [_fill(sizes, int(wider * max(sizes))) for wider in WIDER]
        widths = [max(sum(sizes[i] for i in row) for row in rows) for rows in tried]
        costs = [masked_cost(len(rows), width) for rows, width in zip(tried, widths, strict=True)]
        best = costs.index(min(costs))
        return Plan([[trees[i] for i in row] for row in tried[best]], widths[best], branched=False)

    def apart(self) -> Plan:
        """A row for each prompt with all its replies, or so many of them as WHOLE has room for."""
        trees = self._trees(WHOLE)
        return Plan([[tree] for tree in trees], max(map(_size, trees)), branched=True)

    def _trees(self, most: int) -> list[Group]:
        """A prompt and some of its replies each: so many tokens, unless one reply needs more."""
        trees, most = [], max(most, self.longest)
        for prompt, members in self.groups.items():
            tree: list[tuple[int, int]] = []
            room = most - len(prompt)
            for number, n in members:
                if n > room:
                    trees.append((prompt, tree))
                    tree, room = [], most - len(prompt)
                tree.append((number, n))
                room -= n
            trees.append((prompt, tree))
        return trees

    def packed(self, plan: Plan) -> Packed:
        """The rows of a plan."""
        said: list[int] = []
        parts: list[tuple[int, ...]] = []  # prompts and replies, one after the other
        texts = self.replies[self.first].tolist()
        for row, trees in enumerate(plan.rows):
            end, segment = 0, 0
            for prompt, members in trees:
                root, read = segment, end + len(prompt)
                for which, n in ((-1, len(prompt)), *members):
                    said += prompt if which < 0 else texts[which][:n]
                    parts.append((n, row, end, 0 if which < 0 else len(prompt), segment, root, which, read))
                    end += n
                    segment += 1
        lengths, *told = torch.tensor(parts).unbind(1)
        place, start, position, part, root_of, number, behind = (x.repeat_interleave(lengths) for x in told)
        within = torch.arange(len(said)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        column = start + within

        def spread(values: Tensor, nothing: int) -> Tensor:
            return torch.full((len(plan.rows), plan.width), nothing).index_put_((place, column), values)

        own = number >= 0
        token = number[own], within[own]
        before = torch.where(within == 0, behind, column)[own] - 1
        there = torch.arange(self.replies.shape[1]) < self.lengths[self.first, None]
        return Packed(
            ids=spread(torch.tensor(said), 0),
            positions=spread(position + within, 0),
            segments=spread(part, -1),
            roots=spread(root_of, -1),
            rows=torch.zeros(there.shape, dtype=torch.int64).index_put_(token, place[own]),
            columns=torch.zeros(there.shape, dtype=torch.int64).index_put_(token, before),
            replies=self.replies[self.first],
            mask=there,
            owner=torch.tensor(self.owner),
            branched=plan.branched,
        )


def _size(tree: Group) -> int:
    prompt, members = tree
    return len(prompt) + sum(n for _, n in members)


def masked_cost(rows: int, width: int) -> float:
    """What reading so many rows of so many tokens costs under a mask, in pairs of tokens that are compared."""
    return rows * width * (width + EVEN)


def branched_cost(plan: Plan) -> float:
    """What reading a row for each prompt costs branch by branch, in the unit of `masked_cost`.

    As if each prompt were as long as the longest, and each reply, and each row had as many, and each pair cost twice.
    """
    trees = [tree for [tree] in plan.rows]
    if plan.width < LONG or not all(prompt for prompt, _ in trees):
        return inf  # the kernel wants a prompt
    prompt = max(len(prompt) for prompt, _ in trees)
    most, reply = max(len(members) for _, members in trees), max(n for _, members in trees for _, n in members)
    return float(len(trees) * (plan.width * EVEN + 2 * (prompt**2 + most * reply * (prompt + reply))))


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
