"""What depends on the device: precision, how tensors are copied to it, and how much it computes at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Amounts of work per kernel. They affect time and memory, and results only by rounding.

    Attributes:
        logits: maximum number of logits in memory at once; 4 bytes each in float32.
        prefill: prompt tokens per forward pass of the sampler.
        tree: maximum tokens of a tree of packed replies, or twice the longest text if that is more.
        token_cost: cost of a token outside attention, in attended positions, for the layout of packed rows.
    """

    logits: int
    prefill: int
    tree: int
    token_cost: int


PROCESSOR = Sizes(logits=1 << 22, prefill=8192, tree=512, token_cost=1024)  # measured: experiments/bench/layouts.py
# Estimated, not measured. A kernel should have 10^8 entries to write. With hidden size H, a token needs 24 H^2
# operations in a layer outside attention and 4 H per attended position, which run at about a quarter of the rate.
ACCELERATOR = Sizes(logits=1 << 28, prefill=32768, tree=2048, token_cost=4096)


def sizes_of(device: torch.device) -> Sizes:
    """The amounts of work for a device."""
    return sizes_on(device.type == "cpu")


def sizes_on(cpu: bool) -> Sizes:
    """The amounts of work for the CPU, or for any accelerator."""
    return PROCESSOR if cpu else ACCELERATOR


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for the device; on the CPU, the tensor itself.

    The source may be changed afterwards: memory that is not pinned is staged before the call returns. MPS does not
    promise this.
    """
    return x.to(device, non_blocking=device.type != "mps")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device other than the CPU has bfloat16 matrix products in hardware."""
    if device.type == "cpu":
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return supported is not None and bool(supported())


def allow_tf32(device: torch.device) -> None:
    """Let products of float32 matrices on CUDA round their inputs to TF32: 10 bits of mantissa, an eighth of the time.

    Comparisons with a fixed tolerance use `exact_float32`; the mismatch of sampler and learner is compared with a
    rounding error that is measured under TF32 (`selfplay.engines.rounding`).
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def products_in(dtype: torch.dtype, kind: str) -> str:
    """The precision of products of matrices with this type, on this kind of device."""
    name = str(dtype).removeprefix("torch.")
    rounds = kind == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return f"{name} with inputs in TF32" if rounds else name


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within the block, products of float32 matrices keep 23 bits of mantissa, whatever `allow_tf32` set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def device_map_of(device: str) -> dict[str, torch.device] | None:
    """The `device_map` with which transformers reads every weight straight into a device's memory; None for the CPU."""
    where = torch.device(device)
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    return None if where.type == "cpu" else {"": where}
