"""Data parallelism by `torch.distributed`: every process holds all weights, and gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from selfplay.errors import SelfplayError
from selfplay.parallel.processes import Processes

T = TypeVar("T")
BUCKET = 2**25  # maximum number of elements summed by one call


class Distributed(Processes):
    """The processes started by `torchrun`, each with the whole model.

    Args:
        timeout: minutes that a process waits for the others before the run fails.

    Raises:
        SelfplayError: this process was not started by `torchrun`.
    """

    def __init__(self, timeout: float = 120.0) -> None:
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise SelfplayError(
                "parallel shares a run among processes started by torchrun, but this process was started without it; "
                "use torchrun --nproc_per_node 2 run.py ..., or parallel=none"
            )
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    # --- objects ------------------------------------------------------------------------------------------------------

    def _exchange(self, mine: object) -> list[Any]:
        """Gather an object from each process, by rank."""
        found: list[Any] = [None] * self.size
        _reached(lambda: dist.all_gather_object(found, mine))
        return found

    def together(self, do: Callable[[], T]) -> T:
        return self._each(do, keep=False)[self.rank]

    def in_step(self, do: Callable[[], T]) -> T:
        return self.together(do)

    def collect(self, do: Callable[[], T]) -> list[T]:
        return self._each(do, keep=True)

    def lead(self, do: Callable[[], T]) -> T:
        if self.rank == 0:
            return self._each(do, keep=True)[0]
        return self._each(lambda: None, keep=True)[0]  # type: ignore[return-value]

    def _each(self, do: Callable[[], T], keep: bool) -> list[T]:
        """Call in all processes; return all results (`keep`) or only this one's. If one process fails, all raise."""
        result: T | None = None
        failure: Exception | None = None
        try:
            result = do()
        except Exception as error:
            failure = error
        told = None if failure is None else _sentence(failure, self.rank)
        found = self._exchange((told, result if keep else None))
        if failure is not None:
            raise failure
        for sentence, _ in found:
            if sentence is not None:
                raise SelfplayError(sentence)
        results = [one for _, one in found]
        results[self.rank] = result
        return results

    # --- numbers ------------------------------------------------------------------------------------------------------

    def add(self, tensors: Sequence[Tensor]) -> None:
        for group in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            _reached(lambda flat=flat: dist.all_reduce(flat))  # type: ignore[misc]
            for tensor, summed in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        for p in parameters:
            if p.requires_grad and p.grad is None:
                p.grad = torch.zeros_like(p)
        self.add([p.grad for p in parameters if p.grad is not None])

    def highest(self, value: float) -> float:
        found: float = max(self._exchange(value))
        return found

    def rounds(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        return [(part, True) for part in self.share(parts)]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group consecutive tensors of one dtype and device; a group has one tensor, or at most `BUCKET` elements."""
    found: list[list[Tensor]] = []
    for tensor in tensors:
        last = found[-1] if found else []
        alike = last and (last[0].dtype, last[0].device) == (tensor.dtype, tensor.device)
        if alike and sum(one.numel() for one in last) + tensor.numel() <= BUCKET:
            last.append(tensor)
        else:
            found.append([tensor])
    return found


def _reached(exchange: Callable[[], object]) -> None:
    """Exchange something with the other processes.

    Raises:
        SelfplayError: one of them has ended, or does not answer.
    """
    try:
        exchange()
    except RuntimeError as error:
        raise SelfplayError(
            f"another process of this run has ended or does not answer ({str(error).splitlines()[0][:200]}); see "
            "its output, then continue with resume=<this run's folder>"
        ) from error


def _sentence(error: Exception, rank: int) -> str:
    """The message that the other processes print for an error of this process."""
    if isinstance(error, SelfplayError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"process {rank} of the run failed with {type(error).__name__}: {first}"
