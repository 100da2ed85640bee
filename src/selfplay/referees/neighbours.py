"""SimPLE: pseudo-labels that disagree with their neighbours are left out before a vote over an input's views.

Ge et al., "Entailment as Robust Self-Learner" (2305.17197), with the details of the authors' code. Pure functions of
embeddings and labels; a view is one way to ask about an input: a wording, or a pass with dropout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfplay.core import SelfplayError

NEIGHBOURS, UNCERTAIN = 9, 0.2


@dataclass(frozen=True)
class Edited:
    """Pseudo-labels of N inputs, of which V views were labelled.

    Attributes:
        scores: [V, N] see `uncertainty`.
        uncertain: [V, N] bool, the labels that were left out.
        labels: [N] int64, the votes of the others.
    """

    scores: Tensor
    uncertain: Tensor
    labels: Tensor


def edited(
    embeddings: Tensor,
    labels: Tensor,
    fallback: Tensor,
    neighbours: int = NEIGHBOURS,
    share: float = UNCERTAIN,
) -> Edited:
    """Leave out the most uncertain labels of all views, then vote over the views of each input.

    Args:
        embeddings: [V, N, H] a vector of each view of each input.
        labels: [V, N] int64 pseudo-labels, from 0.
        fallback: [N] int64 labels for ties and for inputs without a certain view.
        neighbours: k, see `uncertainty`.
        share: the fraction of the labels that is left out, rounded down; equal scores are left out together.
    """
    assert embeddings.ndim == 3 and labels.shape == embeddings.shape[:2], f"{embeddings.shape}, {labels.shape}"
    scores = uncertainty(embeddings.flatten(0, 1), labels.flatten(), neighbours)
    count = int(share * len(scores) + 1e-9)
    least = scores.topk(count).values[-1] if count else scores.new_tensor(torch.inf)
    uncertain = (scores >= least).view(labels.shape)
    return Edited(scores.view(labels.shape), uncertain, vote(labels, ~uncertain, fallback))


def uncertainty(embeddings: Tensor, labels: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """[M] how many standard deviations a node's disagreement with its neighbours is above that of random labels.

    With weights w = 1 / (1 + distance) to its neighbours, a node with label y has the disagreement J = sum of w over
    neighbours with another label. If these had labels at random, with the prior p (each label's share of all nodes), J
    would have the mean (1 - p_y) sum w and the variance p_y (1 - p_y) sum w^2. The score is (J - mean) / sd, or 0 where
    the variance is 0: if all nodes have one label, or a node has no neighbours.

    Args:
        embeddings: [M, H].
        labels: [M] int64, from 0.
        neighbours: k: the neighbours of a node are those nearer than the k-th nearest, where a node is its own nearest.
            As in the authors' code, that makes k - 1 of them without ties, the node itself among them.

    Raises:
        SelfplayError: there are fewer than k nodes, or k is less than 2.
    """
    assert embeddings.ndim == 2 and labels.shape == embeddings.shape[:1], f"{embeddings.shape}, {labels.shape}"
    if not 2 <= neighbours <= len(labels):
        raise SelfplayError(
            f"neighbours is {neighbours}, but there are {len(labels)} labelled views; choose a number from 2 to that"
        )
    near = 1 / (1 + torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist"))
    least = near.topk(neighbours, dim=1).values[:, -1:]
    weights = near * (near > least)
    prior = (labels.bincount().to(near) / len(labels))[labels]
    disagreement = (weights * (labels[:, None] != labels[None])).sum(1)
    mean, variance = (1 - prior) * weights.sum(1), prior * (1 - prior) * weights.square().sum(1)
    known = variance > 0
    return torch.where(known, (disagreement - mean) / torch.where(known, variance, 1.0).sqrt(), 0.0)


def vote(labels: Tensor, counted: Tensor, fallback: Tensor) -> Tensor:
    """[N] the commonest label of each input's counted views; the fallback where there is none, or a tie.

    Args:
        labels: [V, N] int64 labels, from 0.
        counted: [V, N] bool, the views that vote.
        fallback: [N] int64.
    """
    assert labels.shape == counted.shape and fallback.shape == labels.shape[1:], f"{labels.shape}, {fallback.shape}"
    kinds = int(torch.cat([labels.flatten(), fallback]).max()) + 1
    votes = (torch.nn.functional.one_hot(labels, kinds) * counted[..., None]).sum(0)
    most = votes.max(1)
    alone = (votes == most.values[:, None]).sum(1) == 1
    return torch.where(alone, most.indices, fallback)
