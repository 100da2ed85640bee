"""Trials: whether a fast way of computing gives what the model's own modules give, on a few tokens.

A trial is made where it can fail: with adapters moved away from where they begin (a fresh one is the identity, which
no mistake with it changes). It answers with "equal" or "not equal"; what is raised in it is an error, and goes on as
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.models.structure import bare

MOVED = 0.1  # of its root mean square, how far each adapter weight is moved; where that is 0, LEAST
LEAST = 0.05
_found: WeakKeyDictionary[PreTrainedModel, dict[str, bool]] = WeakKeyDictionary()


def passes(model: PreTrainedModel, name: str, trial: Callable[[PreTrainedModel], bool]) -> bool:
    """What the trial of that name has found for the model; it is made at the first call, in the weights' precision."""
    known = _found.setdefault(model, {})
    if name not in known:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False), moved_adapters(model):
            known[name] = trial(model)
    return known[name]


def forget(model: PreTrainedModel) -> dict[str, bool]:
    """Let every trial of the model be made again; what they had found."""
    return _found.pop(model, {})


def alike(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results of a computation in `dtype` differ by rounding alone, in the norm: 3e-4 in float32, 0.1 in
    bfloat16."""
    apart = min(0.1, 50 * torch.finfo(dtype).eps ** 0.75)
    return bool((ours - theirs).float().norm() <= apart * theirs.float().norm())


@contextmanager
def moved_adapters(model: PreTrainedModel) -> Iterator[None]:
    """All that an adapter trains is somewhere else for the time being; it comes back bit for bit, whatever happens.

    The luck is of a generator of its own. A model without an adapter stays as it is.
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
