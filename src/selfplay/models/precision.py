"""The precision in which a policy computes."""

from __future__ import annotations

import torch

from selfplay.core import SelfplayError
from selfplay.devices import computes_in_bfloat16


def compute_dtype_of(name: str | None, dtype: str, device: str) -> torch.dtype | None:
    """The precision of matrix products, or None for that of the weights.

    Args:
        name: "bfloat16"; "auto" for bfloat16 over float32 weights on an accelerator that computes in it; the name of
            the weights' precision, or None for it.
        dtype: of the weights.
        device: of the weights.

    Raises:
        SelfplayError: products of these weights cannot have this precision.
    """
    if name == "auto":
        half = dtype == "float32" and computes_in_bfloat16(torch.device(device))
        return torch.bfloat16 if half else None
    if name is None or name == dtype:
        return None
    if (name, dtype) != ("bfloat16", "float32"):
        raise SelfplayError(
            f"player.compute_dtype is {name} over player.dtype={dtype}; take compute_dtype=bfloat16 over float32, or "
            "compute_dtype=auto"
        )
    return torch.bfloat16
