"""Trials: whether a fast implementation agrees with the model's own modules on a few tokens.

Adapters are perturbed during a trial, because a fresh adapter is the identity and would hide errors in its handling. A
trial returns whether the results agree; exceptions propagate. Products of float32 matrices are exact in a trial (no
TF32), so one tolerance suits every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.devices import exact_float32
from selfplay.models.structure import bare

MOVED = 0.1  # perturbation of an adapter weight, relative to its root mean square; LEAST if that is 0
LEAST = 0.05
MORE = 2.0  # factor by which a result in half precision may be further from the exact one than the model's own is
_found: WeakKeyDictionary[PreTrainedModel, dict[str, bool]] = WeakKeyDictionary()


def passes(model: PreTrainedModel, name: str, trial: Callable[[PreTrainedModel], bool]) -> bool:
    """The cached result of a named trial; the first call runs it, in the precision of the weights."""
    known = _found.setdefault(model, {})
    if name not in known:
        device = model.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False), exact_float32(), moved_adapters(model):
            known[name] = trial(model)
    return known[name]


def forget(model: PreTrainedModel) -> dict[str, bool]:
    """Discard and return the results of the model's trials, so that they run again."""
    return _found.pop(model, {})


def alike(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results computed in `dtype` agree to a relative error in norm of 3e-4 (float32) or 0.1 (bfloat16)."""
    apart = min(0.1, 50 * torch.finfo(dtype).eps ** 0.75)
    return bool((ours - theirs).float().norm() <= apart * theirs.float().norm())


def as_accurate(ours: Tensor, theirs: Tensor, exact: Tensor) -> bool:
    """Whether a result in half precision is at most `MORE` times as far from the exact one as the model's own is.

    The tolerance is thus the measured rounding error of this model in this precision.
    """
    exact = exact.float()
    return bool((ours.float() - exact).norm() <= MORE * (theirs.float() - exact).norm())


def is_half(model: PreTrainedModel) -> bool:
    """Whether the weights are less precise than float32."""
    return torch.finfo(model.dtype).bits < 32


@contextmanager
def moved_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Perturb the trainable parameters of an adapter, with a separate generator; they are restored bit for bit.

    A model without an adapter is unchanged.
    """
    trained = [p for p in model.parameters() if p.requires_grad] if bare(model) is not model else []
    kept = [p.data for p in trained]
    generator = torch.Generator().manual_seed(0)
    try:
        for p in trained:
            size = MOVED * float(p.data.float().square().mean().sqrt()) if p.numel() else 0.0
            noise = torch.randn(p.shape, generator=generator) * (size or LEAST)
            p.data = p.data + noise.to(p.device, p.dtype)
        yield
    finally:
        for p, data in zip(trained, kept, strict=True):
            p.data = data
