"""Weights over NCCL, from the GPU of the first process to those of all servers' workers.

The other side is vLLM's own weight-transfer engine "nccl", which servers of `selfplay serve --transfer nccl` have.
The form is that of vLLM 0.32 and 0.33 (`vllm.distributed.weight_transfer`):

    group      rank 0 is this process; the workers of the first server follow from rank 1, then those of the second.
               It is made from an NCCL id that this process draws and sends (`nccl_unique_id_b64`), not through a
               store, so this environment needs PyTorch with NCCL and no vLLM; each rank then takes part in an
               all-reduce of one element
    update     names, dtypes and shapes of all tensors, in the order in which they are sent
    buckets    consecutive tensors as bytes, as many as it takes to exceed `BUCKET`, in one broadcast

NCCL has no deadlines, so its calls are made in threads of their own, which are left behind when `seconds` are over.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from selfplay.clients.transport import side_by_side
from selfplay.core import SelfplayError
from selfplay.engines.engine import Weights
from selfplay.engines.server.client import AGAIN, Client
from selfplay.engines.server.transfer import NCCL, Transfer
from selfplay.models import checkpoints

T = TypeVar("T")
BUCKET = 2**28  # bytes; this process and each worker hold one beside the model
GRACE = 1.0  # seconds; the deadline of a request passes before ours, since its error names the server


class Communicator:
    """This process as rank 0 of a group: PyTorch's calls of NCCL, which leave out process groups and their store.

    Args:
        size: number of ranks, this process included.
        unique_id: of the group.
        device: this process's GPU.
    """

    def __init__(self, size: int, unique_id: bytes, device: torch.device) -> None:
        from torch.cuda import nccl

        self.device = device
        with torch.cuda.device(device):
            self._group = nccl.init_rank(size, unique_id, 0)  # type: ignore[no-untyped-call]
            one = torch.zeros(1, device=device)
            nccl.all_reduce([one], comms=[self._group])  # type: ignore[no-untyped-call]  # each worker begins with it
            torch.cuda.current_stream().synchronize()

    def send(self, buckets: Iterable[Tensor]) -> None:
        """Send bytes to all other ranks, one bucket after the other, and wait until they have them."""
        from torch.cuda import nccl

        with torch.cuda.device(self.device):
            torch.cuda.synchronize()  # the weights may have been written on another stream
            for bucket in buckets:
                nccl.broadcast([bucket], comms=[self._group])
                torch.cuda.current_stream().synchronize()

    @staticmethod
    def unique_id() -> bytes:
        """An id for a new group."""
        from torch.cuda import nccl

        return bytes(nccl.unique_id())  # type: ignore[no-untyped-call]

    @staticmethod
    def check(device: torch.device) -> None:
        """Raise SelfplayError unless weights on a device can be sent."""
        if device.type != "cuda" or not hasattr(torch._C, "_nccl_init_rank"):
            raise SelfplayError(
                f"engine.transfer=nccl sends weights between GPUs, but the learner's are on '{device}' and PyTorch is "
                f"{torch.__version__}; use a GPU and a build of PyTorch with NCCL, or take engine.transfer=folder"
            )


class Nccl(Transfer):
    """Over NCCL; the group is made at the first call.

    Args:
        seconds: deadline of making the group, and of sending the weights once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._group: Communicator | None = None

    def send(self, weights: Weights, label: str, clients: Sequence[Client]) -> None:
        Communicator.check(weights.model.device)
        for client in clients:
            client.pause()
        if self._group is None:
            self._group = self._joined(weights.model.device, clients)
        group, self._group = self._group, None  # after an error, a thread may still be sending to it
        with weights.placed():
            state = checkpoints.published(weights.model)
            info = update_info(state)
            receiving = [partial(client.receive, info) for client in clients]
            self._together("get the weights", partial(group.send, buckets(state.values(), BUCKET)), receiving)
        self._group = group
        for client in clients:
            client.finish(label)

    def _joined(self, device: torch.device, clients: Sequence[Client]) -> Communicator:
        """A group of this process and all workers, which enter it at the same time."""
        workers = [client.workers() for client in clients]
        size, unique_id = 1 + sum(workers), Communicator.unique_id()
        for client in clients:
            client.leave()  # the group of a run before
        joining = [
            partial(client.prepare, NCCL, init_info(offset, size, unique_id))
            for client, offset in zip(clients, accumulate(workers, initial=1), strict=False)
        ]
        return self._together("join this process", partial(Communicator, size, unique_id, device), joining)

    def _together(self, task: str, ours: Callable[[], T], theirs: Sequence[Callable[[], None]]) -> T:
        """Make a call of this process and one for each server at the same time; return the result of ours.

        Raises:
            SelfplayError: a call failed, or they took too long.
        """
        end = time.monotonic() + self.seconds + GRACE
        found: list[T] = []
        calls = [lambda: found.append(ours()), *theirs]
        try:
            for _, result in side_by_side(calls, len(calls), end):
                if isinstance(result, SelfplayError):
                    raise result
                if isinstance(result, Exception):
                    raise SelfplayError(f"NCCL failed while the servers were to {task} ({_line(result)}); {AGAIN}")
        except TimeoutError as error:
            raise SelfplayError(
                f"not all workers of the servers could {task} over NCCL within {self.seconds:g} s; look at what the "
                f"servers printed, raise engine.seconds if they need longer, {AGAIN}"
            ) from error
        return found[0]


def init_info(offset: int, size: int, unique_id: bytes) -> dict[str, Any]:
    """What a server's workers need to enter the group: vLLM's NCCLWeightTransferInitInfo.

    Args:
        offset: the rank of the first of them.
        size: number of ranks.
        unique_id: of the group.
    """
    return {
        "nccl_unique_id_b64": b64encode(unique_id).decode(),
        "rank_offset": offset,
        "world_size": size,
        "packed": True,
        "packed_buffer_size_bytes": BUCKET,
        "packed_num_buffers": 1,
    }


def update_info(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the workers need to unpack the buckets: vLLM's NCCLWeightTransferUpdateInfo."""
    return {
        "names": list(state),
        "dtype_names": [str(value.dtype).removeprefix("torch.") for value in state.values()],
        "shapes": [list(value.shape) for value in state.values()],
    }


def buckets(values: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The bytes of consecutive tensors, as many at a time as it takes to exceed `size` bytes.

    Yields:
        tensors of dtype uint8 and shape (bytes).
    """
    held: list[Tensor] = []
    for value in values:
        held.append(value.detach().contiguous().view(-1).view(torch.uint8))
        if sum(part.numel() for part in held) > size:
            yield torch.cat(held) if len(held) > 1 else held[0]
            held = []
    if held:
        yield torch.cat(held) if len(held) > 1 else held[0]


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
