"""Pairs with a gap, balanced pairs, and turns that are learnt from several times."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from batches import batch
from test_ties import of
from torch import Tensor
from toys import Toy

from selfplay.core import Batch, SelfplayError
from selfplay.updates import imitation
from selfplay.updates.imitation import Imitation
from selfplay.updates.pairs import Pairs, apart, balanced

SGD = partial(torch.optim.SGD, lr=0.1)


def turns(*groups: tuple[float, ...]) -> Batch:
    numbers = [i for i, payoffs in enumerate(groups) for _ in payoffs]
    return of(torch.tensor([paid for payoffs in groups for paid in payoffs]), torch.tensor(numbers))


def rows(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))


# --- a gap ------------------------------------------------------------------------------------------------------------


def test_pairs_that_are_apart() -> None:
    """8 6 7 5: three pairs of a gap of at least 2 and three of less; never across groups."""
    two = turns((8.0, 6.0, 7.0, 5.0), (1.0, 2.5))
    found = apart(two, two.groups, gap=2.0)
    assert sorted(rows(found)) == [(0, 1), (0, 3), (2, 3)] and found.ties == 3 + 1
    assert sorted(rows(apart(two, two.groups, gap=1.5))) == [(0, 1), (0, 3), (2, 3), (5, 4)]


def test_a_gap_in_the_last_bit_is_there() -> None:
    """The mean of 8, 8 and 7 is 2 above that of 6, 6 and 5, though not in float32; equal payoffs are never apart."""
    means = torch.tensor([23 / 3, 17 / 3, 2.1, 0.1])
    assert float(means[2]) - float(means[3]) < 2.0
    found = apart(of(means, torch.tensor([0, 0, 1, 1])), torch.tensor([0, 0, 1, 1]), gap=2.0)
    assert rows(found) == [(0, 1), (2, 3)]
    huge = turns((1e7, 1e7, 1e7 + 1))
    assert rows(apart(huge, huge.groups, gap=0.5)) == [(2, 0), (2, 1)]


# --- balanced pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "reuse"), [(32, 4), (7, 2), (5, 1), (100, 9)])
def test_balanced_pairs_of_every_small_group(most: int, reuse: int) -> None:
    """As many as are allowed; uses of right turns and of wrong ones within 1; none twice before all have been used."""
    for count_right, count_wrong in product(range(1, 9), repeat=2):
        one = turns((*(1.0,) * count_right, *(0.0,) * count_wrong))
        one = one.rows(torch.randperm(len(one), generator=torch.Generator().manual_seed(count_right)))
        found = rows(balanced(one, one.groups, most, reuse))
        assert len(found) == min(most, reuse * count_right)
        assert all(one.payoffs[i] == 1.0 and one.payoffs[j] == 0.0 for i, j in found)
        used = [Counter(side) for side in zip(*found, strict=True)], [count_right, count_wrong]
        for uses, members in zip(*used, strict=True):
            often = sorted([*uses.values(), *(0,) * (members - len(uses))])
            assert often[-1] - often[0] <= 1
        assert max(Counter(i for i, _ in found).values()) <= reuse
        assert len(set(found)) == min(len(found), count_right * count_wrong)
        assert max(Counter(found).values()) == -(-len(found) // (count_right * count_wrong))


def test_groups_without_right_or_wrong_turns_are_ties() -> None:
    three = turns((1.0, 1.0), (0.0, 0.5), (0.0, 1.0), (1.0,))
    found = balanced(three, three.groups, reuse=1)
    assert rows(found) == [(5, 4)] and found.ties == 2
    assert rows(balanced(three, three.groups, reuse=1, threshold=0.4)) == [(3, 2), (5, 4)]


# --- how many times a turn counts -------------------------------------------------------------------------------------


def test_right_turns_are_used_several_times() -> None:
    """3 right turns 4 times each; 9 share 32 uses; one alone is used 4 times; of 40 only the first 32 are used."""
    four = turns((1.0, 0.0, 1.0, 1.0), (1.0,) * 9, (1.0,), (0.0, 0.5))
    times = imitation.balanced(four, four.groups)
    assert times.tolist() == [4, 0, 4, 4, *[4] * 5, *[3] * 4, 4, 0, 0]
    many = turns((1.0,) * 40)
    assert imitation.balanced(many, many.groups).tolist() == [1] * 32 + [0] * 8
    assert imitation.balanced(four, four.groups, most=4, reuse=2, threshold=0.4)[-2:].tolist() == [0, 2]


class Steep(Toy):
    """Each token has log-probs of its own."""

    def logprobs(self, batch: Batch) -> Tensor:
        return self.weight * (batch.replies + 1)

    def snapshot(self) -> Toy:
        return Steep(self.weight.item())


def given(times: list[float], batch: Batch, groups: Tensor) -> Tensor:
    return torch.tensor(times)


def learnt(turns: Batch, times: list[float]) -> tuple[float, float]:
    """The loss of a step and the parameter after it."""
    policy = Steep(-0.5)
    update = Imitation(policy, Steep(-0.5), optimizer=SGD, keep=partial(given, times), max_grad_norm=torch.inf)
    learnt = update.step(turns)
    assert learnt.advantages is not None and learnt.advantages.tolist() == times
    return learnt.metrics["loss"], policy.weight.item()


def test_a_turn_with_a_weight_is_that_many_turns() -> None:
    """Replies of 2, 1 and 3 tokens and of two roles: twice, once and three times, against a batch that repeats them."""
    weighted, repeated = batch(), batch().rows(torch.tensor([0, 0, 1, 2, 2, 2]))
    assert learnt(weighted, [2.0, 1.0, 3.0]) == pytest.approx(learnt(repeated, [1.0] * 6), abs=1e-6)
    assert learnt(weighted, [2.0, 1.0, 3.0]) != pytest.approx(learnt(weighted, [1.0] * 3), abs=1e-3)
    without = weighted.rows(torch.tensor([1, 2, 2, 2]))
    assert learnt(weighted, [0.0, 1.0, 3.0]) == pytest.approx(learnt(without, [1.0] * 4), abs=1e-6)
    often = replace(weighted, weights=torch.tensor([1.0, 1.0, 3.0]))
    assert learnt(often, [2.0, 1.0, 1.0]) == pytest.approx(learnt(repeated, [1.0] * 6), abs=1e-6)


@pytest.mark.parametrize(
    ("times", "told"), [([1.0, -0.5, 1.0], "-0.5"), ([1.0, torch.nan, 0.0], "nan"), ([torch.inf, 0.0, 0.0], "inf")]
)
def test_what_a_weight_cannot_be(times: list[float], told: str) -> None:
    with pytest.raises(SelfplayError, match=rf"update\.keep gave a turn the weight {told}; it must give finite"):
        learnt(batch(), times)
