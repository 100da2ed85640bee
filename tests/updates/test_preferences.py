"""Preference losses, pairs and labels, against numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from batches import batch, paired
from torch import Tensor

from selfplay.core import Batch
from selfplay.updates import imitation
from selfplay.updates.kto import above, above_mean, mismatched
from selfplay.updates.pairs import best_and_worst, bradley_terry, demonstrated, winners_and_losers
from selfplay.updates.preferences import PairedReplies, dpo, kl_baseline, kto, sppo, win_probabilities

LN3 = math.log(3)


def five(payoffs: tuple[float, ...] = (1.0, 3.0, 3.0, 2.0, 2.0)) -> Batch:
    """Five turns of one token: a group of three and one of two."""
    return Batch(
        prompts=tuple(torch.tensor([p]) for p in (7, 7, 7, 8, 8)),
        replies=torch.arange(5)[:, None],
        mask=torch.ones(5, 1, dtype=torch.bool),
        logprobs=torch.zeros(5, 1),
        payoffs=torch.tensor(payoffs),
        groups=torch.tensor([0, 0, 0, 1, 1]),
        weights=torch.ones(5),
        roles=("a",) * 5,
        choices=((),) * 5,
    )


# --- losses -----------------------------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    """beta = 1/2 and a margin of 2 log 3: sigmoid = 3/4, the loss log 4/3, its slopes -1/8 and 1/8."""
    chosen, rejected = torch.tensor([LN3], requires_grad=True), torch.tensor([-LN3], requires_grad=True)
    loss = dpo(paired(chosen, rejected), beta=0.5)
    assert loss.tolist() == pytest.approx([math.log(4 / 3)])
    loss.sum().backward()
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-0.125, 0.125))


def test_spin_by_hand() -> None:
    """The teacher's reply went from 1/4 to 1/2, the learner's own from 1/2 to 1/3: a ratio of 3, beta = 1."""
    teacher = torch.tensor([0.5]).log() - torch.tensor([0.25]).log()
    own = torch.tensor([1 / 3]).log() - torch.tensor([0.5]).log()
    loss = dpo(paired(teacher, own), beta=1.0)
    assert loss.item() == pytest.approx(math.log(4 / 3), abs=1e-6)


def test_sppo_by_hand() -> None:
    """eta = 2: what wins 3/4 is to rise by 1/2, what wins 1/4 to fall by 1/2; they moved by 2 and 0."""
    loss = sppo(paired(torch.tensor([2.0]), torch.tensor([0.0]), (0.75, 0.25)), beta=0.5)
    assert loss.tolist() == pytest.approx([(1.5**2 + 0.5**2) / 2])


def test_kto_by_hand() -> None:
    """beta = 1, z = log 3: a desirable ratio of 2 log 3 is at sigmoid(log 3) = 3/4, an undesirable one at 1/4."""
    ratios = torch.tensor([2 * LN3, 2 * LN3, LN3], requires_grad=True)
    loss = kto(ratios, torch.tensor([True, False, True]), torch.full((3,), LN3), beta=1.0)
    assert loss.tolist() == pytest.approx([0.25, 0.75, 0.5])
    loss.sum().backward()
    assert ratios.grad.tolist() == pytest.approx([-3 / 16, 3 / 16, -1 / 4])


def test_ktos_baseline_by_hand() -> None:
    ones = torch.ones(3)
    assert kl_baseline(torch.tensor([1.0, 2.0, 3.0]), ones).item() == 2.0
    assert kl_baseline(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 1.0])).item() == 1.75
    assert kl_baseline(torch.tensor([1.0, -2.0, -3.0]), ones).item() == 0.0
    assert kl_baseline(torch.tensor([4.0, math.nan, -math.inf]), ones).item() == 4.0
    assert kl_baseline(torch.full((3,), math.nan), ones).item() == 0.0


def test_win_probabilities_by_hand() -> None:
    """Three with payoffs log 3, 0, 0: the first wins 1/2, 3/4, 3/4 of the time; a group of one draws with itself."""
    wins = win_probabilities(torch.tensor([LN3, 0.0, 9.0, 0.0]), torch.tensor([0, 0, 1, 0]))
    assert wins.tolist() == pytest.approx([2 / 3, (0.25 + 0.5 + 0.5) / 3, 0.5, (0.25 + 0.5 + 0.5) / 3])


def test_wrong_shapes_are_refused() -> None:
    x = torch.zeros(3)
    for place in range(7):
        columns = [x] * 7
        columns[place] = x[:2]
        with pytest.raises(AssertionError, match=r"\[P\] each"):
            PairedReplies(*columns)
    with pytest.raises(AssertionError, match=r"\[P\] each"):
        PairedReplies(*[x[None]] * 7)
    with pytest.raises(AssertionError, match=r"\[N\] each"):
        kto(x, x > 0, x[:1], 1.0)


# --- pairs ------------------------------------------------------------------------------------------------------------


def rows(pairs: object) -> list[tuple[int, int]]:
    return sorted(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))  # type: ignore[attr-defined]


def test_best_and_worst() -> None:
    """1 3 3 gives the first 3 over the 1; 2 2 is a tie."""
    found = best_and_worst(five(), five().groups)
    assert rows(found) == [(1, 0)] and found.ties == 1 and found.weights.tolist() == [1.0]


def test_winners_and_losers() -> None:
    """1 3 3 gives two pairs and a tie, 2 2 a tie; 5 1 3 2 0 gives three and one."""
    found = winners_and_losers(five(), five().groups)
    assert rows(found) == [(1, 0), (2, 0)] and found.ties == 2
    other = five((5.0, 1.0, 3.0, 2.0, 0.0))
    assert rows(winners_and_losers(other, other.groups)) == [(0, 1), (0, 2), (2, 1), (3, 4)]


def test_bradley_terry() -> None:
    """Both orders, three times as likely the one in which log 3 more was paid; turns that weigh 2 count twice."""
    turns = replace(five((LN3, 0.0, 0.0, 1.0, 1.0)), weights=torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0]))
    found = bradley_terry(turns, turns.groups)
    weights = dict(zip(zip(found.chosen.tolist(), found.rejected.tolist(), strict=True), found.weights, strict=True))
    assert len(weights) == 6 + 2 and found.ties == 0
    assert [float(weights[pair]) for pair in ((0, 1), (1, 0), (1, 2), (3, 4))] == pytest.approx([1.5, 0.5, 0.5, 0.5])


def test_demonstrated() -> None:
    """What was said to one prompt, the teacher's over the learner's, whatever the roles, groups and payoffs."""
    turns = replace(five(), off_policy=(False, True, False, False, True), roles=("a", "t", "a", "a", "t"))
    assert rows(demonstrated(turns, torch.arange(5))) == [(1, 0), (1, 2), (4, 3)]
    assert len(demonstrated(five(), five().groups)) == 0


# --- labels, mismatched pairs, what is kept ---------------------------------------------------------------------------


def test_labels_by_hand() -> None:
    labels = above_mean(five(), five().groups)
    assert labels.tolist() == pytest.approx([-4 / 3, 2 / 3, 2 / 3, 0, 0])
    assert above(five(), five().groups, 2.0).tolist() == [-1, 1, 1, 0, 0]


def test_mismatched_pairs() -> None:
    """Prompts 7 7 7 8 8 turned by three: two of the three meet replies to 8; one cannot, as 7 has more than half."""
    found = mismatched(five())
    assert [int(p) for p in found.prompts] == [7, 7, 7, 8, 8]
    assert found.replies[:, 0].tolist() == [2, 3, 4, 0, 1]
    even = five().rows(torch.tensor([3, 0, 4, 1]))
    assert [int(p) for p in mismatched(even).prompts] == [8, 8, 7, 7]
    assert mismatched(even).replies[:, 0].tolist() == [0, 1, 3, 4]


def test_what_is_kept() -> None:
    turns = five()

    def kept(found: Tensor) -> list[int]:
        return found.nonzero()[:, 0].tolist()

    assert kept(imitation.best(turns, turns.groups)) == [1]
    assert kept(imitation.above(turns, turns.groups, 1.5)) == [1, 2, 3, 4]
    assert kept(imitation.above(turns, turns.groups, 2.0)) == [1, 2]  # not what is paid as much
    assert kept(imitation.off_policy(turns, turns.groups)) == []
    shown = replace(turns, off_policy=(False, True, False, False, True))
    assert kept(imitation.off_policy(shown, turns.groups)) == [1, 4]


def test_rows_keep_who_said_it() -> None:
    shown = replace(five(), off_policy=(False, True, False, False, True))
    assert shown.rows(torch.tensor([4, 0])).off_policy == (True, False)
    assert shown.rows(torch.tensor([4, 0])).on_policy.tolist() == [False, True]
    assert five().rows(torch.tensor([4, 0])).off_policy == () and batch().on_policy.tolist() == [True] * 3
