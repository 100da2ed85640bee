"""What an optimizer keeps of each parameter, found by steps on small ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import SelfplayError
from selfplay.memory.model import Weight

SIDES = (11, 13, 17, 19, 23)  # of the small parameters that an optimizer's state is counted with
LEAST = 4096  # elements of a parameter from which optimizers keep its state in blocks (bitsandbytes, torchao)
MakeOptimizer = Callable[[Iterable[Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Blocks:
    """How an optimizer keeps its state of a large parameter in blocks, such as one of 8-bit numbers.

    Attributes:
        least: a parameter has at least so many elements,
        size: and a number of elements divisible by this.
        each: bytes per element.
        constant: bytes per parameter.
    """

    least: int
    size: int
    each: float
    constant: int


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer keeps of a parameter, by its number of dimensions.

    Attributes:
        tensors: dimensions -> shape and bytes of an element of each tensor; a negative entry -i of a shape stands for
            the parameter's dimension number i, from 1.
        blocks: how the state of large parameters is kept instead; None: as that of all others.
    """

    tensors: Mapping[int, tuple[tuple[tuple[int, ...], int], ...]]
    blocks: Blocks | None = None

    def bytes(self, weights: Iterable[Weight], processes: int = 1) -> int:
        """Bytes of the state of these weights, if the first dimension of each is split among the processes."""
        total = 0
        for weight in weights:
            first, *rest = weight.shape or (1,)
            sides = (math.ceil(first / processes), *rest)
            if (own := self.blocks) and math.prod(sides) >= own.least and math.prod(sides) % own.size == 0:
                total += own.constant + round(own.each * math.prod(sides))
                continue
            for shape, itemsize in self.tensors[len(weight.shape)]:
                total += itemsize * math.prod(side if side >= 0 else sides[-side - 1] for side in shape)
        return total


def optimizer_state(make: MakeOptimizer, weights: Iterable[Weight]) -> OptimizerState:
    """What an optimizer keeps, found by one step on a small parameter of each number of dimensions.

    Raises:
        SelfplayError: the optimizer cannot take the step.
    """
    found, blocks = {}, None
    for weight in {len(weight.shape): weight for weight in weights}.values():
        shape = SIDES[: len(weight.shape)]
        kept, _ = _kept(make, shape, weight)
        found[len(shape)] = tuple(
            (tuple(-1 - SIDES.index(side) if side in shape else side for side in x.shape), x.element_size())
            for x in kept
        )
        if blocks is None and len(shape) == 2:
            blocks = _blocks(make, weight)
    return OptimizerState(found, blocks)


def _blocks(make: MakeOptimizer, weight: Weight) -> Blocks | None:
    """How the optimizer keeps the state of matrices of LEAST elements or more, if it has blocks."""
    few, size = _kept(make, (1, LEAST), weight)
    if size is None:
        return None
    many, _ = _kept(make, (2, LEAST), weight)
    one, two = (sum(x.numel() * x.element_size() for part in kept for x in _inner(part)) for kept in (few, many))
    return Blocks(LEAST, size, (two - one) / LEAST, 2 * one - two)


def _kept(make: MakeOptimizer, shape: tuple[int, ...], like: Weight) -> tuple[list[Tensor], int | None]:
    """The tensors that an optimizer keeps of a parameter after one step, and the size of its blocks if it has some."""
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[like.itemsize]
    p = Parameter(torch.ones(shape, dtype=dtype))
    try:
        optimizer = make([p])
        p.grad = torch.ones_like(p)
        optimizer.step()
    except (ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SelfplayError(
            f"the optimizer cannot train a parameter of {p.ndim} dimensions ({reason}); take another update.optimizer"
        ) from error
    kept = [value for value in optimizer.state[p].values() if isinstance(value, Tensor)]
    return kept, getattr(optimizer, "block_size", None)


def _inner(x: Any) -> Iterable[Tensor]:
    """The plain tensors that a tensor consists of."""
    names = x.__tensor_flatten__()[0] if hasattr(x, "__tensor_flatten__") else None
    return [x] if names is None else [getattr(x, name) for name in names]
