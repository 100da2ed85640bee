"""Attention of packed rows branch by branch: equal to that under a mask, and to one row a reply."""

from math import inf

import pytest
import torch
from packed_replies import a_tree_a_row, replies_to

from selfplay.engines import packing
from selfplay.engines.llama.tree_attention import Tree, attend
from selfplay.engines.packing import PackingPlanner, branched_cost, masked_cost


def test_the_places_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows [p p p a a b], [p p p c c c], [q d d d - -]: two replies in the first, the second prompt is shorter."""
    monkeypatch.setattr(packing, "WHOLE", 6)
    prompts = [torch.tensor(p) for p in ([5, 6, 7], [5, 6, 7], [5, 6, 7], [8])]
    replies = torch.tensor([[1, 2, 0], [3, 0, 0], [9, 9, 9], [4, 4, 4]])
    mask = torch.arange(3) < torch.tensor([2, 1, 3, 3])[:, None]
    found = Tree.of(a_tree_a_row(prompts, replies, mask))
    assert found.width == 3 and found.hidden is not None
    assert found.hidden[:, 0, 0].isinf().tolist() == [[False] * 3, [False] * 3, [False, True, True]]
    assert found.grid.tolist() == [[[3, 4, 0], [5, 0, 0]], [[9, 10, 11], [0, 0, 0]], [[13, 14, 15], [0, 0, 0]]]
    assert found.there.view(3, 2, 3).sum(2).tolist() == [[2, 1], [3, 0], [3, 0]]


@pytest.mark.parametrize("lengths", [[7, 7, 7], [12, 3, 1, 30]], ids=["alike", "ragged"])
def test_what_is_seen_and_its_gradient_are_those_under_the_mask(lengths: list[int]) -> None:
    packed = a_tree_a_row(*replies_to(lengths, 5))
    assert len(packed.ids) == len(lengths)
    rows, length = packed.ids.shape
    torch.manual_seed(0)
    states = [torch.randn(rows, 4, length, 8, requires_grad=True) for _ in range(3)]
    mask = packed.attention(torch.float32)
    masked = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3).transpose(1, 2)
    ours = attend(*states, 0.3, Tree.of(packed))
    there = packed.segments >= 0
    torch.testing.assert_close(ours[there], masked[there], atol=2e-6, rtol=0)
    slopes = torch.randn(ours[there].shape)
    got, right = (torch.autograd.grad((x[there] * slopes).sum(), states) for x in (ours, masked))
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


def test_what_it_costs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of 9: prompts of 4 and 3 tokens, replies of 3 + 2 and 3 + 3. As if each prompt had 4, each reply 3."""
    monkeypatch.setattr(packing, "LONG", 9)
    prompts = [torch.tensor(p) for p in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7], [5, 6, 7])]
    replies, mask = torch.arange(12).view(4, 3), torch.arange(3) < torch.tensor([3, 2, 3, 3])[:, None]
    planner = PackingPlanner(prompts, replies, mask)
    assert planner.packed(planner.apart()).ids.shape == (2, 9)
    assert branched_cost(planner.apart()) == 2 * (9 * 1024 + 2 * (4 * 4 + 6 * (4 + 3)))
    assert masked_cost(2, 9) == 2 * (9 * 1024 + 9 * 9)


def test_where_it_costs_less_than_a_mask() -> None:
    """Sixteen answers of 48 to a prompt of 512: 512 x 512 + 768 x 560 of 1280 x 1280. Not where one reply is long."""

    def less(prompt: int, lengths: list[int]) -> bool:
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        replies = torch.arange(1, 1 + mask.numel()).view(mask.shape)
        plan = PackingPlanner([torch.arange(prompt)] * len(lengths), replies, mask).apart()
        return branched_cost(plan) < masked_cost(1, plan.width)

    assert less(512, [48] * 16)
    assert not less(64, [48] * 4), "short"
    assert not less(64, [600] + [4] * 100), "uneven"


def test_rows_without_a_prompt_are_read_under_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LONG", 1)
    replies, mask = torch.arange(30).view(5, 6), torch.ones(5, 6, dtype=torch.bool)
    assert branched_cost(PackingPlanner([torch.arange(5)] * 5, replies, mask).apart()) < inf
    assert branched_cost(PackingPlanner([torch.arange(0)] * 5, replies, mask).apart()) == inf
    padded = a_tree_a_row(*replies_to([5, 6, 7], 3))
    assert bool((padded.roots < 0).any()) and branched_cost(PackingPlanner(*replies_to([5, 6, 7], 3)).apart()) < inf
