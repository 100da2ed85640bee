"""A double of NCCL in memory: groups that are entered by all ranks at once, and broadcasts from rank 0.

`Communicator` replaces `selfplay.engines.server.nccl.Communicator`; `Link` is what vLLM's workers do at the other end,
whose buckets are cut as `packed_nccl_broadcast_consumer` of vLLM cuts them. As with NCCL, a rank waits for the
others for as long as it takes; `give_up` ends that, so that no thread of a test is left behind.
"""

import math
import os
from base64 import b64decode
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any, ClassVar

import torch
from torch import Tensor

PATIENCE = 120.0  # seconds until a rank gives up by itself; no test should come to that


class GivenUp(Exception):
    """The other ranks are not there."""


class Group:
    """The ranks that have entered it, and what each has not received yet; a broadcast waits for every receiver."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.size = 0
        self.ranks: set[int] = set()
        self.unread: dict[int, Tensor] = {}
        self.waiting: set[int] = set()
        self.over = False

    def enter(self, size: int, rank: int) -> None:
        with self.changed:
            assert rank not in self.ranks and 0 <= rank < size and self.size in (0, size)
            self.size = size
            self.ranks.add(rank)
            self.changed.notify_all()
            self._wait(rank, lambda: len(self.ranks) == size)

    def send(self, values: Tensor) -> None:
        with self.changed:
            self.unread = {rank: values.clone() for rank in self.ranks if rank}
            self.changed.notify_all()
            self._wait(0, lambda: not self.unread)

    def receive(self, rank: int) -> Tensor:
        with self.changed:
            self._wait(rank, lambda: rank in self.unread)
            values = self.unread.pop(rank)
            self.changed.notify_all()
            return values

    def give_up(self) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def _wait(self, rank: int, until: Callable[[], bool]) -> None:
        self.waiting.add(rank)
        self.changed.notify_all()
        self.changed.wait_for(lambda: self.over or until(), PATIENCE)
        self.waiting.remove(rank)
        if self.over or not until():
            raise GivenUp


GROUPS: dict[bytes, Group] = {}


def give_up() -> None:
    """Let every rank of every group that waits for others fail."""
    for group in GROUPS.values():
        group.give_up()
    GROUPS.clear()


class Communicator:
    """Rank 0 of a group."""

    sent: ClassVar[list[int]] = []  # bytes of each broadcast, of all groups

    def __init__(self, size: int, unique_id: bytes, device: torch.device) -> None:
        self.group = GROUPS[unique_id]
        self.group.enter(size, 0)

    def send(self, buckets: Iterable[Tensor]) -> None:
        for values in buckets:
            assert values.dtype == torch.uint8 and values.dim() == 1
            self.sent.append(len(values))
            self.group.send(values)

    @staticmethod
    def unique_id() -> bytes:
        found = os.urandom(128)
        GROUPS[found] = Group()
        return found

    @staticmethod
    def check(device: torch.device) -> None:
        return


class Link:
    """The workers of one server.

    Args:
        workers: how many there are.
        missing: how many of them never enter a group.

    Attributes:
        ranks: those of the workers in the group.
    """

    def __init__(self, workers: int = 1, missing: int = 0) -> None:
        self.workers, self.missing = workers, missing
        self.ranks: range = range(0)
        self.size = 0
        self.group = Group()

    def waits(self) -> bool:
        """Whether a worker comes to wait for the other ranks."""
        with self.group.changed:
            return self.group.changed.wait_for(lambda: not self.group.waiting.isdisjoint(self.ranks), PATIENCE)

    def join(self, info: dict[str, Any]) -> None:
        """What every worker does with an init_info."""
        self.group = GROUPS[b64decode(info["nccl_unique_id_b64"], validate=True)]
        self.size = info["packed_buffer_size_bytes"]
        assert info["packed"] and info["packed_num_buffers"] >= 1
        self.ranks = range(info["rank_offset"], info["rank_offset"] + self.workers)
        with ThreadPoolExecutor(self.workers) as pool:
            entering = self.ranks[: self.workers - self.missing]
            list(pool.map(lambda rank: self.group.enter(info["world_size"], rank), entering))

    def receive(self, info: dict[str, Any]) -> dict[str, Tensor]:
        """What every worker unpacks with an update_info, which is the same for all."""
        with ThreadPoolExecutor(self.workers) as pool:
            first, *others = pool.map(lambda rank: self._unpacked(rank, info), self.ranks)
        assert all(first.keys() == one.keys() and all(torch.equal(first[n], one[n]) for n in first) for one in others)
        return first

    def _unpacked(self, rank: int, info: dict[str, Any]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        bucket: list[tuple[str, torch.dtype, list[int], int]] = []
        told = list(zip(info["names"], info["dtype_names"], info["shapes"], strict=True))
        for place, (name, dtype_name, shape) in enumerate(told, 1):
            dtype = getattr(torch, dtype_name)
            bucket.append((name, dtype, shape, math.prod(shape) * dtype.itemsize))
            if sum(size for *_, size in bucket) > self.size or place == len(told):
                received = self.group.receive(rank)
                parts = received.split([size for *_, size in bucket])  # raises unless the sizes add up
                for (tensor, kind, form, _), part in zip(bucket, parts, strict=True):
                    found[tensor] = part.clone().view(kind).view(form)
                bucket = []
        return found
