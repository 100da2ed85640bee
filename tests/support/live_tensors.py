"""The bytes of the tensors that are alive while a block runs: what memory profilers measure, also on a CPU."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Within a block, counts the bytes of every storage that an operation makes, until it is freed.

    Storages that existed before do not count. Temporary memory inside an operation is not seen.

    Attributes:
        now, peak: bytes that are alive, and the most that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs)):
            self.see(tensor, 0)
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            self.see(tensor, tensor.untyped_storage().nbytes())
        return out

    def see(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        weakref.finalize(storage, self.forget, id(storage), size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def forget(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.now -= size


def tensors(tree: Any) -> Iterable[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.layout.__str__() == "torch.strided"]
