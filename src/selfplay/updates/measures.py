"""Metrics of an update's batch, by role."""

import torch
from torch import Tensor

from selfplay.core import Batch
from selfplay.updates.regularizers import k3


def by_role(batch: Batch, reference: Tensor | None) -> dict[str, float]:
    """Entropy (minus the mean log-prob) and KL (mean k3) of the learner's sampled tokens, in nats per token.

    Args:
        batch: the turns.
        reference: [B, T] log-probs of the reference; None omits KL.
    """
    out = {}
    for role in roles_of(batch):
        rows = torch.tensor([r == role for r in batch.roles]) & batch.on_policy
        counts = batch.mask[rows] * batch.weights[rows][:, None]
        out[f"{role}/entropy"] = float(-(batch.logprobs[rows] * counts).sum() / counts.sum())
        if reference is None:
            continue
        out[f"{role}/kl"] = float((k3(batch.logprobs[rows], reference[rows]) * counts).sum() / counts.sum())
    return out


def roles_of(batch: Batch) -> list[str]:
    """The roles of the learner's own turns, sorted."""
    return sorted({role for role, own in zip(batch.roles, batch.on_policy.tolist(), strict=True) if own})
