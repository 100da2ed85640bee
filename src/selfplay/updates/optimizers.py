"""The optimizer that updates take where their config names none; any of `torch.optim` may stand in its place."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter

FUSED = ("cpu", "cuda")


def adamw(
    parameters: Iterable[Parameter],
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), of all parameters in one pass where PyTorch has it for their device."""
    some = list(parameters)
    fused = all(p.device.type in FUSED for p in some)
    return torch.optim.AdamW(some, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
