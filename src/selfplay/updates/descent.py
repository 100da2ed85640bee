"""Passes over a batch in micro-batches: log-probabilities without gradient, and an optimizer step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from selfplay.core import Batch, Policy, SelfplayError
from selfplay.devices import sent
from selfplay.out_of_memory import Rows, is_out_of_memory
from selfplay.parallel import current

T = TypeVar("T")
TurnLosses = Callable[[Tensor, Tensor], Tensor]  # (row numbers [b], log-probs [b, t] or values) -> losses [b]
Forward = Callable[[Batch], Tensor]  # what a policy computes of turns, with gradient, one row per turn


@torch.no_grad()
def frozen_logprobs(policy: Policy, batch: Batch, micro_batch: Rows) -> Tensor:
    """[B, T] log-probabilities of the batch under a policy, without gradient."""
    out, processes = torch.zeros_like(batch.logprobs), current()

    def passes() -> None:
        for rows, counts in processes.rounds(by_prompt(batch, _of_one(micro_batch.most, len(batch)))):
            part = batch.rows(rows)
            found = policy.logprobs(part).cpu()
            if counts:
                out[rows, : part.replies.shape[1]] = found

    _repeating(passes, micro_batch, len(batch), out.zero_)
    processes.add([out])
    return out


def _of_one(micro_batch: int, turns: int) -> int:
    """The micro-batch size, lowered to at most a process's share of the turns."""
    return min(micro_batch, -(-turns // current().size))


def by_prompt(batch: Batch, micro_batch: int) -> list[Tensor]:
    """Split row numbers into micro-batches, sorted by prompt and length.

    Replies to the same prompt can then share computation, and padding is small.
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
    micro_batch: Rows,
    max_grad_norm: float,
    compare: Callable[[Batch, Tensor], None] | None = None,
    values: Forward | None = None,
) -> dict[str, float]:
    """Take one optimizer step on the weighted sum of all turn losses; return loss, grad_norm and logprob_mismatch.

    `logprob_mismatch` is the largest absolute difference between the policy's and the sampler's log-probability of a
    token, in nats, over the learner's own turns. Before the step both are the same distribution, so a large value
    reveals template, alignment or precision errors.

    Args:
        policy: the policy to train.
        optimizer: its optimizer.
        batch: the turns.
        weights: [B] the weight of each turn.
        losses: (row numbers [b], log-probs [b, t]) -> losses [b].
        micro_batch: turns per backward pass. If memory runs out, it is halved and the step's passes are repeated from
            zero gradients; the loss is normalised over the whole batch, so the gradient is the same up to rounding.
        max_grad_norm: maximum gradient norm, for clipping.
        compare: called before the step with the turns of each micro-batch and the policy's log-probabilities of them.
        values: what `losses` receives in place of log-probabilities; nothing is then compared, and logprob_mismatch
            is 0.

    Raises:
        SelfplayError: `compare` raised it, memory ran out with one turn at once, or the loss or its gradient is not
            finite. The weights are then unchanged.
    """
    processes, parameters = current(), list(policy.parameters())
    read: list[tuple[Batch, Tensor]] = []

    def passes() -> float:
        found: list[Tensor] = []
        for rows, counts in processes.rounds(by_prompt(batch, _of_one(micro_batch.most, len(batch)))):
            part = batch.rows(rows)
            logprobs = policy.logprobs(part) if values is None else values(part)
            loss = counts * (sent(weights[rows], logprobs.device) * losses(rows, logprobs)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            found.append(loss.detach())
            if values is None:
                read.append((part, logprobs.detach()))
        return sum(torch.stack(found).tolist()) if found else 0.0  # one copy from the device

    def compared() -> float:
        mismatch = 0.0
        for part, logprobs in ((part, logprobs.cpu()) for part, logprobs in read):
            difference = (logprobs - part.logprobs)[part.on_policy].abs()
            mismatch = max(mismatch, float(difference.max()) if difference.numel() else 0.0)
            if compare is not None:
                compare(part, logprobs)
        return mismatch

    def reset() -> None:
        optimizer.zero_grad(set_to_none=True)
        read.clear()

    reset()
    with _no_gradient_left_by_errors(optimizer, f"{len(batch)} turns", micro_batch):
        mine = _repeating(passes, micro_batch, len(batch), reset)
        total = sum(processes.collect(lambda: mine))
        with processes.whole():
            mismatch = max(processes.collect(compared))
        processes.add_gradients(parameters)
    length = processes.gathered(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, length)
    norm = float(length)
    if not (torch.isfinite(torch.tensor(total)) and torch.isfinite(torch.tensor(norm))):
        optimizer.zero_grad(set_to_none=True)
        raise SelfplayError(
            f"the loss is {total} and the gradient norm {norm}; the weights are unchanged: start a new "
            "run with a lower update.optimizer.lr"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total, "grad_norm": norm, "logprob_mismatch": mismatch}


@contextmanager
def _no_gradient_left_by_errors(optimizer: torch.optim.Optimizer, what: str, micro_batch: Rows) -> Iterator[None]:
    """Drop the gradients if the block raises; say what to lower if it ran out of memory."""
    try:
        yield
    except (SelfplayError, RuntimeError, MemoryError) as error:
        optimizer.zero_grad(set_to_none=True)
        if not is_out_of_memory(error):
            raise
        raise SelfplayError(
            f"memory ran out in an update of {what}; lower update.micro_batch (now {micro_batch.most}) or episodes"
        ) from error


def _repeating(passes: Callable[[], T], micro_batch: Rows, turns: int, reset: Callable[[], object]) -> T:
    """The result of `passes` in every process; if memory runs out in one of them, all halve and repeat theirs.

    With sharded weights the processes wait for one another within a pass, so one of them cannot go back; there the
    error ends the run.
    """
    processes = current()

    def tried() -> tuple[bool, T | None]:
        try:
            return True, passes()
        except (RuntimeError, MemoryError) as error:
            used = _of_one(micro_batch.most, turns)
            if not is_out_of_memory(error) or not processes.repeats or used <= 1:
                raise
            return False, None

    while True:
        done, result = processes.in_step(tried)
        if not processes.repeats or not processes.highest(not done):
            return result  # type: ignore[return-value]
        reset()
        micro_batch.halve(_of_one(micro_batch.most, turns))
