"""Fully sharded data parallelism (FSDP2): each process keeps a part of the weights, gradients and optimizer state,
and gathers a layer's weights only while they are used.

The frozen weights under a LoRA adapter are sharded. The adapter is not: it is small, and snapshots swap it in and out.
"""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from selfplay.parallel.distributed import Distributed

T = TypeVar("T")


class Sharded(Distributed):
    """The processes started by `torchrun`, each with a part of the weights.

    Args:
        timeout: minutes that a process waits for the others before the run fails.
    """

    repeats = False

    def __init__(self, timeout: float = 120.0) -> None:
        super().__init__(timeout)
        self._models: dict[int, weakref.ref[Any]] = {}  # number, equal in all processes -> model
        self._skeletons: WeakKeyDictionary[Module, Module] = WeakKeyDictionary()
        self._numbers = count()
        self._gathered = False
        self._resharding: list[Callable[[], None]] = []

    def wrap(self, model: Module) -> None:
        self._skeletons[model] = _skeleton(model)
        self._shard(model)
        self._begin(model)

    def _begin(self, model: Any) -> None:
        """Make the root's forward pass the first one, as FSDP requires."""
        model.gathered(lambda _: None)

    def _shard(self, model: Module) -> None:
        kinds = set(getattr(model, "_no_split_modules", None) or ())
        blocks = [module for module in model.modules() if type(module).__name__ in kinds]
        trained = {p for p in model.parameters() if p.requires_grad}
        adapter = trained if len(trained) < len(list(model.parameters())) else set()
        device = next(model.parameters()).device.type
        mesh = init_device_mesh("cpu" if device == "meta" else device, (self.size,))
        for module in (*blocks, model):
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=adapter)
            assert isinstance(module, FSDPModule)
            module.set_gradient_divide_factor(1.0)  # sum: losses are already normalized by the whole batch
            module.set_force_sum_reduction_for_comms(True)  # gloo does not support weighted sums
            module.gathered = types.MethodType(_called, module)  # type: ignore[assignment]
            register_fsdp_forward_method(module, "gathered")
            module.through = types.MethodType(self._through, module)  # type: ignore[assignment]
        self._models[next(self._numbers)] = weakref.ref(model)

    def _through(self, module: Any, do: Callable[..., Any], *args: Any) -> Any:
        """See `selfplay.models.structure.through`."""
        return do(module, *args) if self._gathered else module.gathered(do, *args)

    @torch.no_grad()
    def copied(self, model: Module) -> Module:
        skeleton = self._skeletons.get(model)
        if skeleton is None:
            return super().copied(model)
        twin = copy.deepcopy(skeleton)
        self._shard(twin)
        twin.to_empty(device=next(model.parameters()).device)
        self._skeletons[twin] = skeleton
        into = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            _local(into[name]).copy_(_local(value))
        self._begin(twin)
        return twin

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self._gathered:
            yield
            return
        held = {number: model for number, found in self._models.items() if (model := found()) is not None}
        everywhere = set.intersection(*self._exchange(set(held)))  # processes may collect garbage at different times
        models, self._gathered = [model for number, model in held.items() if number in everywhere], True
        for model in models:
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.set_reshard_after_forward(False, recurse=False)
                    module.unshard()
        try:
            yield
        finally:
            self._gathered = False
            for do in self._resharding:
                do()
            for model in models:
                for module in model.modules():
                    if isinstance(module, FSDPModule):
                        module.reshard()
                        module.set_reshard_after_forward(True, recurse=False)

    def on_reshard(self, do: Callable[[], None]) -> None:
        self._resharding.append(do)

    def in_step(self, do: Callable[[], T]) -> T:
        """Let an error end this process; `torchrun` then ends the others, which wait for its part of the weights."""
        return do()

    def rounds(self, parts: Sequence[T]) -> list[tuple[T, bool]]:
        """Equally many parts for every process, since all processes take part in each gather of the weights."""
        mine = [(part, True) for part in self.share(parts)]
        fewest = -(-len(parts) // self.size)
        return mine + [(parts[0], False)] * (fewest - len(mine))

    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        super().add_gradients([p for p in parameters if not isinstance(p, DTensor)])

    def placed_like(self, target: Tensor, value: Tensor) -> Tensor:
        if not isinstance(target, DTensor) or isinstance(value, DTensor):
            return value
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)

    def own(self, value: Tensor) -> Tensor:
        return _local(value)

    def gathered(self, state: T) -> T:
        found: T = _mapped(state, lambda x: x.full_tensor().cpu() if isinstance(x, DTensor) else x)
        return found

    def scatter(self, optimizer: Optimizer) -> None:
        for p, found in optimizer.state.items():
            if not isinstance(p, DTensor):
                continue
            for name, value in found.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    found[name] = self.placed_like(p, value)


def _called(self: Module, do: Callable[..., Any], *args: Any) -> Any:
    return do(self, *args)


def _skeleton(model: Module) -> Module:
    """A copy of the model whose parameters have no values."""
    memo: dict[int, Any] = {id(p): Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _mapped(part: Any, do: Callable[[Any], Any]) -> Any:
    if isinstance(part, Mapping):
        return type(part)({key: _mapped(value, do) for key, value in part.items()})  # type: ignore[call-arg]
    if isinstance(part, list | tuple):
        return type(part)(_mapped(value, do) for value in part)
    return do(part)
