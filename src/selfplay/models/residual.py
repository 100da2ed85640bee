"""Adapters initialised from the weights themselves: PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775).

For a published weight W and the adapter's scale s, the factors B0 A0 start as an approximation of part of W, and W is
replaced by the frozen residual W - s B0 A0. On disk they are plain adapters of twice the rank over W, since

    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import LoraConfig

A, B = "lora_A.weight", "lora_B.weight"  # suffixes of peft's names of the factors


def leaves_residual(config: LoraConfig) -> bool:
    """Whether the initialisation subtracts the adapter's initial weights from the base model's."""
    return str(config.init_lora_weights).lower().startswith(("pissa", "olora"))


def publish(config: LoraConfig) -> None:
    """Convert an adapter's config, in place, to that of the equivalent adapter of twice the rank."""
    more = math.sqrt(2) if config.use_rslora else 2  # the scale is alpha / sqrt(r), or alpha / r
    config.init_lora_weights, config.r = True, 2 * config.r
    config.lora_alpha = more * config.lora_alpha  # type: ignore[assignment]
    config.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {key: more * alpha for key, alpha in (config.alpha_pattern or {}).items()}


def doubled(state: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert an adapter's weights to those of the equivalent adapter of twice the rank.

    Args:
        state: the adapter's weights.
        start: its initial weights, by the same names.
    """
    found = dict(state)
    for name, value in state.items():
        if name.endswith(A):
            found[name] = torch.cat([value, start[name].to(value.device)], 0)
        elif name.endswith(B):
            found[name] = torch.cat([value, -start[name].to(value.device)], 1)
    return found


def halved(state: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Invert `doubled`.

    Args:
        state: the weights of the adapter of twice the rank.
        start: the initial weights, by the same names.

    Returns:
        The adapter's weights, and a description of a difference from `start`, or "".
    """
    found = dict(state)
    for name in (name for name in state if name.endswith(A)):
        twin = name.removesuffix(A) + B
        if name not in start or twin not in state:
            return found, f"only one of the checkpoint and the player has {name}"
        a, b, a0, b0 = state[name], state[twin], start[name].cpu(), start[twin].cpu()
        rank = len(a0)
        if (len(a), b.shape[1]) != (2 * rank, 2 * rank) or a[rank:].shape != a0.shape or b[:, rank:].shape != b0.shape:
            return found, f"{name} has shape {list(a.shape)}, but twice the rank of {list(a0.shape)} was expected"
        if not _same_product((-b[:, rank:], a[rank:]), (b0, a0)):
            return found, f"{name} has different initial weights: player.seed or the base model differs"
        found[name], found[twin] = a[:rank].contiguous(), b[:, :rank].contiguous()
    return found, ""


def _same_product(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether two products are equal up to rounding; the signs of the factors may depend on the machine."""
    if all(torch.equal(x, y) for x, y in zip(one, other, strict=True)):
        return True
    here, there = (b.flatten(1) @ a.flatten(1) for b, a in (one, other))
    return bool(torch.allclose(here, there, rtol=0, atol=1e-5 * float(there.abs().max())))
