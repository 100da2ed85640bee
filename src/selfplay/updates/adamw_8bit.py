"""AdamW with running averages of 8 bits, by torchao."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from selfplay.core import SelfplayError
from selfplay.options import Momentum, NotNegative, Range

STATE = "selfplay.8bit"  # marks the plain form of an average in a checkpoint


def adamw_8bit(
    parameters: Iterable[Parameter],
    lr: Annotated[float, Range(0, 1e38, above=True)] = 1e-4,
    weight_decay: NotNegative = 0.0,
    betas: tuple[Momentum, Momentum] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW whose running averages are 8-bit numbers, with a float32 scale for each block of 256 of them.

    Dettmers et al. 2022 (2110.02861), by torchao. The averages take 2 bytes a parameter instead of 8. Those of a
    parameter with fewer than 4,096 entries, or whose number of entries is not divisible by 256, are in float32. On a
    CPU the step is not compiled.

    Args:
        parameters: the parameters to optimize.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of the running averages of the gradient and its square.
        eps: added to the denominator for numerical stability.

    Raises:
        SelfplayError: torchao is not installed, or the parameters are sharded.
    """
    some = list(parameters)
    if any(isinstance(p, DTensor) for p in some):
        raise SelfplayError(
            "update.optimizer is adamw_8bit, whose state parallel=fsdp cannot write into checkpoints; take adamw, or "
            "parallel=ddp"
        )
    optimizer: torch.optim.Optimizer = _kind()(some, lr, betas, eps, weight_decay)
    return optimizer


@cache
def _kind() -> Any:
    """torchao's optimizer with checkpoints of plain tensors, which load without its code."""
    if sys.modules.get("torchao", sys) is None or find_spec("torchao") is None:
        raise SelfplayError(
            "update.optimizer is adamw_8bit, which needs the package torchao; install it with: "
            "pip install 'selfplay[torchao]'"
        )
    from torchao.optim import AdamW8bit

    class PlainAdamW8bit(AdamW8bit):  # type: ignore[misc]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            if all(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
                return super().step(closure)
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

        def state_dict(self) -> dict[str, Any]:
            found: dict[str, Any] = super().state_dict()
            return found | {"state": _mapped(found["state"], _plain)}

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            super().load_state_dict({**state_dict, "state": _mapped(state_dict["state"], _quantised)})

    return PlainAdamW8bit


def _mapped(state: Mapping[int, Mapping[str, Any]], do: Callable[[Any], Any]) -> dict[int, dict[str, Any]]:
    return {number: {name: do(value) for name, value in kept.items()} for number, kept in state.items()}


def _plain(value: Any) -> Any:
    """A quantised tensor as plain ones."""
    from torchao.optim.subclass_8bit import OptimState8bit

    if not isinstance(value, OptimState8bit):
        return value
    return {STATE: value.signed, "codes": value.codes, "scale": value.scale}


def _quantised(value: Any) -> Any:
    """Inverse of `_plain`; the map from codes to numbers is a constant."""
    from torchao.optim.subclass_8bit import OptimState8bit

    if not isinstance(value, Mapping) or STATE not in value:
        return value
    codes, scale = value["codes"], value["scale"]
    found: Tensor = OptimState8bit.zeros(codes.shape, value[STATE], codes.numel() // len(scale), codes.device)
    found.codes, found.scale = codes, scale  # type: ignore[attr-defined]
    return found
