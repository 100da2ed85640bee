"""The default optimizer of updates; any optimizer of `torch.optim` can replace it."""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch.nn import Parameter

from selfplay.options import Momentum, NotNegative, Range

FUSED = ("cpu", "cuda")


def adamw(
    parameters: Iterable[Parameter],
    lr: Annotated[float, Range(0, 1e38, above=True)] = 1e-4,
    weight_decay: NotNegative = 0.0,
    betas: tuple[Momentum, Momentum] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019), fused by default where PyTorch supports it.

    Args:
        parameters: the parameters to optimize.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of the running averages of the gradient and its square.
        eps: added to the denominator for numerical stability.
        amsgrad: use the AMSGrad variant.
        fused: use the fused implementation; None: if all parameters are on cpu or cuda.
    """
    some = list(parameters)
    if fused is None:
        fused = all(p.device.type in FUSED for p in some)
    return torch.optim.AdamW(some, lr, betas, eps, weight_decay, amsgrad, fused=fused)
