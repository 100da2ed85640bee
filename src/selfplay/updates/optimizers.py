"""The optimizer that updates take where their config names none; any of `torch.optim` may stand in its place."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

FUSED = ("cpu", "cuda")


def adamw(parameters: Iterable[Parameter], lr: float, weight_decay: float = 0.0, **options: Any) -> torch.optim.AdamW:
    """`torch.optim.AdamW` (Loshchilov & Hutter 2019), of all parameters in one pass where PyTorch has it for them."""
    some = list(parameters)
    options.setdefault("fused", all(p.device.type in FUSED for p in some))
    return torch.optim.AdamW(some, lr=lr, weight_decay=weight_decay, **options)
