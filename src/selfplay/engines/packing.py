"""Tree packing: all replies to a prompt follow it in one row and do not attend to each other.

A tree is [prompt, reply 1, reply 2, ...] under a tree-shaped attention mask, so the prompt of G answers is computed
once; duplicate replies are computed once too. Short trees share a row to reduce padding. The results equal those of one
row per reply (tests/test_packing).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from selfplay.devices import PROCESSOR, Sizes, sent, sizes_of

SHARE = 0.75  # quantile of the tree sizes that fits into one tree; larger trees are split
WIDER = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)  # candidate row lengths, in units of the longest tree
LONG = 400  # minimum row length for branch attention; shorter rows are as fast or faster under the mask
WHOLE = 8192  # maximum tokens of a row with branch attention


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass, and the position of each reply token in them; all tensors are on the CPU.

    Attributes:
        ids: [R, L] int64, right-padded with 0.
        positions: [R, L] int64 position ids; each reply continues from the end of its prompt.
        segments: [R, L] int64, index of the prompt or reply within the row, -1 for padding.
        roots: [R, L] int64, the segment of each token's prompt, -1 for padding.
        rows: [D, T] the row of each token of each distinct reply.
        columns: [D, T] the column whose hidden state predicts it.
        replies: [D, T] int64, the distinct replies; entries outside `mask` are arbitrary.
        mask: [D, T] bool.
        owner: [B] index of the distinct reply of each batch entry.
        branched: whether each row holds a single tree and should use branch attention if supported.
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
        """[R, 1, L, L] additive mask: 0 where a token may attend, the minimum of `dtype` elsewhere."""
        here = self.segments[:, None, :]
        visible = (here == self.segments[:, :, None]) | (here == self.roots[:, :, None])
        visible &= torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[:, None]

    def on(self, device: torch.device) -> "Packed":
        """The same with the inputs of a forward pass (ids, positions, segments, roots) on a device."""
        ids, positions, segments, roots = (
            sent(x, device) for x in (self.ids, self.positions, self.segments, self.roots)
        )
        return replace(self, ids=ids, positions=positions, segments=segments, roots=roots)


def pack(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> Packed:
    """Pack B replies with their prompts into the rows that cost least under a mask; see `PackingPlanner`."""
    planner = PackingPlanner(prompts, replies, mask)
    return planner.packed(planner.close())


Ids = tuple[int, ...]
Group = tuple[Ids, list[tuple[int, int]]]  # a prompt, and (index, length) of some of its distinct replies


@dataclass(frozen=True)
class Plan:
    """The trees of each row, the length of the longest row, and whether to use branch attention."""

    rows: list[list[Group]]
    width: int
    branched: bool


class PackingPlanner:
    """Groups replies by prompt, without duplicates, and assigns them to rows.

    Args:
        prompts: B ragged int64 vectors.
        replies, mask: [B, T], as in `Batch`.
        sizes: of the device that computes the rows.
    """

    def __init__(self, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or sizes_of(torch.device("cpu"))
        self.replies, self.lengths = replies.cpu(), mask.sum(1).cpu()
        self.owner: list[int] = []  # [B] index of the distinct reply
        self.first: list[int] = []  # [D] its first batch entry
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
        """Several trees per row, with the row length in WIDER that costs least under a mask."""
        totals = sorted(map(tree_size, self.groups.items()))
        trees = self._trees(min(max(self.sizes.tree, 2 * self.longest), totals[int(SHARE * (len(totals) - 1))]))
        sizes = list(map(tree_size, trees))
        tried = [_fill(sizes, int(wider * max(sizes))) for wider in WIDER]
        widths = [max(sum(sizes[i] for i in row) for row in rows) for rows in tried]
        costs = [
            masked_cost(len(rows), width, self.sizes.token_cost) for rows, width in zip(tried, widths, strict=True)
        ]
        best = costs.index(min(costs))
        return Plan([[trees[i] for i in row] for row in tried[best]], widths[best], branched=False)

    def apart(self) -> Plan:
        """One row per prompt with all its replies, split into several rows above WHOLE tokens."""
        trees = self._trees(WHOLE)
        return Plan([[tree] for tree in trees], max(map(tree_size, trees)), branched=True)

    def _trees(self, most: int) -> list[Group]:
        """Trees of at most `most` tokens, or of the longest prompt and reply if that is more."""
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
        """Build the rows of a plan."""
        ids: list[int] = []
        parts: list[tuple[int, ...]] = []  # prompts and replies in order
        texts = self.replies[self.first].tolist()
        for row, trees in enumerate(plan.rows):
            end, segment = 0, 0
            for prompt, members in trees:
                root, read = segment, end + len(prompt)
                for which, n in ((-1, len(prompt)), *members):
                    ids += prompt if which < 0 else texts[which][:n]
                    parts.append((n, row, end, 0 if which < 0 else len(prompt), segment, root, which, read))
                    end += n
                    segment += 1
        lengths, *fields = torch.tensor(parts).unbind(1)
        place, start, position, part, root_of, number, prompt_end = (x.repeat_interleave(lengths) for x in fields)
        within = torch.arange(len(ids)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        column = start + within

        def spread(values: Tensor, fill: int) -> Tensor:
            return torch.full((len(plan.rows), plan.width), fill).index_put_((place, column), values)

        own = number >= 0
        token = number[own], within[own]
        before = torch.where(within == 0, prompt_end, column)[own] - 1
        there = torch.arange(self.replies.shape[1]) < self.lengths[self.first, None]
        return Packed(
            ids=spread(torch.tensor(ids), 0),
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


def tree_size(tree: Group) -> int:
    prompt, members = tree
    return len(prompt) + sum(n for _, n in members)


def masked_cost(rows: int, width: int, token_cost: int = PROCESSOR.token_cost) -> float:
    """Cost of a forward pass over `rows` of `width` tokens under a mask, in attended token pairs."""
    return rows * width * (width + token_cost)


def branched_cost(plan: Plan) -> float:
    """Cost of branch attention on the CPU with one row per prompt, in the unit of `masked_cost`.

    An upper estimate: every prompt and reply is counted at the maximum length, every row at the maximum number of
    replies, and every pair twice.
    """
    trees = [tree for [tree] in plan.rows]
    if plan.width < LONG or not all(prompt for prompt, _ in trees):
        return inf  # the kernel needs a non-empty prompt
    prompt = max(len(prompt) for prompt, _ in trees)
    most, reply = max(len(members) for _, members in trees), max(n for _, members in trees for _, n in members)
    return float(len(trees) * (plan.width * PROCESSOR.token_cost + 2 * (prompt**2 + most * reply * (prompt + reply))))


def _fill(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Bin packing by best fit decreasing: the items of each row of at most `width` tokens."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # ascending (remaining room, row)
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
