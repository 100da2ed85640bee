"""One optimizer step over a batch in micro-batches: what every policy-gradient update shares."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from selfplay.core import Batch, Policy, SelfplayError

TurnLosses = Callable[[Tensor, Tensor], Tensor]  # (row numbers [b], log-probs [b, t]) -> losses [b]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def role_weights(batch: Batch, weights: Mapping[str, float]) -> Tensor:
    """[B] how much a turn counts: its role's weight (1 unless named), times the turn's share of the role's turns.

    So the loss is the weighted sum of the roles' mean losses (Language Self-Play, equations 4-5 and L_Self-Play).
    A role that was not asked in this step has no loss.
    """
    counts = dict.fromkeys(batch.roles, 0.0)
    for role, weight in zip(batch.roles, batch.weights.tolist(), strict=True):
        counts[role] += weight
    return batch.weights * torch.tensor([weights.get(role, 1.0) / counts[role] for role in batch.roles])


@torch.no_grad()
def frozen_logprobs(policy: Policy, batch: Batch, micro_batch: int) -> Tensor:
    """[B, T] log-probabilities of the batch under a policy that is not being trained."""
    out = torch.zeros_like(batch.logprobs)
    for rows in by_prompt(batch, micro_batch):
        part = batch.rows(rows)
        out[rows, : part.replies.shape[1]] = policy.logprobs(part).cpu()
    return out


def by_prompt(batch: Batch, micro_batch: int) -> list[Tensor]:
    """Row numbers in micro-batches: turns with one prompt together, prompts of like length together.

    So what a policy shares between replies to one prompt is shared, and little is padding.
    """
    prompts, lengths = [p.tolist() for p in batch.prompts], batch.mask.sum(1).tolist()
    order = sorted(range(len(batch)), key=lambda row: (len(prompts[row]), prompts[row], lengths[row]))
    return list(torch.split(torch.tensor(order), micro_batch))


def descend(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weights: Tensor,
    losses: TurnLosses,
    micro_batch: int,
    max_grad_norm: float,
) -> dict[str, float]:
    """Minimise the sum of weight x loss over all turns by one optimizer step; return loss, grad_norm, drift.

    `drift` is the largest difference between the policy's and the sampler's log-probability of a token; before the step
    they are the same distribution, so it shows template, alignment and precision mistakes.

    Raises:
        SelfplayError: memory ran out, or the loss or its gradient is not finite; the weights are then untouched.
    """
    optimizer.zero_grad(set_to_none=True)
    total, drift = 0.0, 0.0
    try:
        for rows in by_prompt(batch, micro_batch):
            part = batch.rows(rows)
            logprobs = policy.logprobs(part)
            loss = (weights[rows].to(logprobs.device) * losses(rows, logprobs)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            drift = max(drift, float((logprobs.detach().cpu() - part.logprobs).abs().max()))
    except (RuntimeError, MemoryError) as error:
        optimizer.zero_grad(set_to_none=True)
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise SelfplayError(
            f"memory ran out in an update of {len(batch)} turns; "
            f"lower update.micro_batch (now {micro_batch}) or episodes"
        ) from error
    norm = float(torch.nn.utils.clip_grad_norm_(list(policy.parameters()), max_grad_norm))
    if not (torch.isfinite(torch.tensor(total)) and torch.isfinite(torch.tensor(norm))):
        optimizer.zero_grad(set_to_none=True)
        raise SelfplayError(
            f"the loss is {total} and its gradient's norm {norm}; the weights were left as they were: start a new "
            "run with a lower update.optimizer.lr"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total, "grad_norm": norm, "drift": drift}
