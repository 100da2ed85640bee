"""SimPLE's editing of pseudo-labels against a transcription of its rule, node by node."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor

from selfplay.core import SelfplayError
from selfplay.referees.neighbours import edited, uncertainty, vote


def transcribed(
    embeddings: Tensor, labels: Tensor, fallback: Tensor, k: int, share: float
) -> tuple[list[list[float]], list[int]]:
    """The scores and the edited labels, in plain Python: paper.md's rule with the details of the official code.

    Similarity 1 / (1 + distance), of a node to itself 1; neighbours are strictly nearer than the k-th nearest, itself
    included; the prior is the share of a label among all pseudo-labels; the V N share of highest scores is left out,
    with all that equal the last of them; then the majority of each input's remaining views, else the fallback.
    """
    views, inputs = labels.shape
    nodes = list(product(range(views), range(inputs)))
    label = {node: int(labels[node]) for node in nodes}
    prior = {y: count / len(nodes) for y, count in Counter(label.values()).items()}
    score = {}
    for v in nodes:
        similar = {u: 1 / (1 + math.dist(embeddings[v].tolist(), embeddings[u].tolist())) for u in nodes}
        least = sorted(similar.values(), reverse=True)[k - 1]
        w = {u: s for u, s in similar.items() if s > least}
        p = prior[label[v]]
        j = sum(s for u, s in w.items() if label[u] != label[v])
        mu, variance = (1 - p) * sum(w.values()), p * (1 - p) * sum(s * s for s in w.values())
        score[v] = (j - mu) / math.sqrt(variance)
    threshold = sorted(score.values(), reverse=True)[math.floor(share * len(nodes)) - 1]
    found = []
    for n in range(inputs):
        sure = [label[i, n] for i in range(views) if score[i, n] < threshold]
        counts = Counter(sure).most_common()
        tie = not counts or (len(counts) > 1 and counts[0][1] == counts[1][1])
        found.append(int(fallback[n]) if tie else counts[0][0])
    return [[score[i, n] for n in range(inputs)] for i in range(views)], found


def graph(seed: int, kinds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Seven views of twelve inputs at four places, their noisy labels, one more noisy label each, and the true ones."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.randn(4, 3, generator=rng, dtype=torch.float64).repeat(3, 1)
    embeddings = places + 0.3 * torch.randn(7, 12, 3, generator=rng, dtype=torch.float64)
    truth = torch.randint(kinds, (4,), generator=rng).repeat(3)
    noise = torch.tensor([0.2, 0.2, 1.0]).repeat_interleave(4)  # a third of the inputs has labels at random
    noisy = torch.where(torch.rand(8, 12, generator=rng) < noise, torch.randint(kinds, (8, 12), generator=rng), truth)
    return embeddings, noisy[1:], noisy[0], truth


@pytest.mark.parametrize(("kinds", "k"), [(2, 9), (2, 3), (3, 9)])
@pytest.mark.parametrize("seed", range(4))
def test_editing_is_the_transcribed_rule(kinds: int, k: int, seed: int) -> None:
    embeddings, labels, fallback, _ = graph(100 * kinds + 10 * k + seed, kinds)
    found = edited(embeddings, labels, fallback, k, 0.2)
    scores, expected = transcribed(embeddings, labels, fallback, k, 0.2)
    torch.testing.assert_close(found.scores, torch.tensor(scores, dtype=torch.float64), atol=1e-9, rtol=0)
    assert found.labels.tolist() == expected
    assert int(found.uncertain.sum()) == math.floor(0.2 * 84) == 16


def test_edited_votes_are_right_more_often_than_votes_of_all_and_these_than_one_view() -> None:
    """100 graphs of 12 inputs, a third of them hard: what is said of those near them corrects them."""
    right = torch.zeros(3)
    for seed in range(100):
        embeddings, labels, fallback, truth = graph(seed, 2)
        everyone = vote(labels, torch.ones_like(labels, dtype=torch.bool), fallback)
        found = edited(embeddings, labels, fallback)
        right += torch.stack([(one == truth).float().mean() for one in (fallback, everyone, found.labels)])
    assert right[0] + 3 < right[1] and right[1] + 3 < right[2]


def test_one_node_by_hand() -> None:
    """On a line 0 1 2 4 with labels 1 0 0 1 and k = 3: a node and the nearest other count, if they are not tied."""
    scores = uncertainty(torch.tensor([[0.0], [1.0], [2.0], [4.0]]), torch.tensor([1, 0, 0, 1]), 3)
    first = (0.5 - 0.5 * 1.5) / math.sqrt(0.25 * (1 + 0.25))  # itself and the node at 1, which disagrees
    second = (0.0 - 0.5 * 1.0) / math.sqrt(0.25)  # both others are as far as the third nearest: itself alone
    third = (0.0 - 0.5 * 1.5) / math.sqrt(0.25 * 1.25)
    last = (1 / 3 - 0.5 * (1 + 1 / 3)) / math.sqrt(0.25 * (1 + 1 / 9))
    assert scores.tolist() == pytest.approx([first, second, third, last])


def test_one_label_or_no_neighbours_are_neither_certain_nor_uncertain() -> None:
    """The variance is 0: a score of 0, not NaN. Then all are equal, so all are left out, and the fallback decides."""
    points = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    found = edited(points, torch.ones(3, 4, dtype=torch.int64), torch.tensor([1, 0, 1, 0]), 3, 0.2)
    assert found.scores.abs().max() == 0 and bool(found.uncertain.all()) and found.labels.tolist() == [1, 0, 1, 0]
    same = uncertainty(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 2)
    assert same.tolist() == [0.0] * 4


def test_votes_by_hand() -> None:
    labels = torch.tensor([[0, 2, 1, 1, 0], [0, 2, 0, 1, 2], [1, 1, 0, 0, 1]])
    counted = torch.tensor(
        [[True, True, True, False, True], [True, False, True, False, True], [True, True, False, False, True]]
    )
    assert vote(labels, counted, torch.tensor([5, 6, 7, 8, 9])).tolist() == [0, 6, 7, 8, 9]


def test_how_many_labels_are_left_out() -> None:
    """A fifth of four is none; 29 of 100, though 0.29 x 100 is below 29 in floats."""
    rng = torch.Generator().manual_seed(0)
    few, many = torch.randn(2, 2, 2, generator=rng), torch.randn(10, 10, 2, generator=rng)
    labels = torch.randint(2, (10, 10), generator=rng)
    assert not bool(edited(few, torch.tensor([[0, 1], [1, 1]]), torch.tensor([0, 0]), 2, 0.2).uncertain.any())
    assert int(edited(many, labels, labels[0], 9, 0.29).uncertain.sum()) == 29


def test_more_neighbours_than_nodes_are_refused() -> None:
    for k in (1, 5):
        with pytest.raises(SelfplayError, match=rf"neighbours is {k}, but there are 4 labelled views; choose"):
            uncertainty(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), k)
