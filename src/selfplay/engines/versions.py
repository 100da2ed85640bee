"""Version counters for model weights, incremented with every change."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakSet, ref

from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

_numbers = count()
_versions: WeakSet[Version] = WeakSet()


class Version:
    """Counts the changes of one policy's weights.

    Each step of an optimizer with a parameter of the model increments it, as do `restore` and `load`. Code that
    modifies the weights directly must call `raise_by_one`.

    Args:
        model: the model that owns the parameters; None for a copy that no optimizer updates.

    Attributes:
        frozen: whether no optimizer changes the weights.
        uid: identifies the current weights, such as "policy-3@412"; it is never reused for other values.
    """

    def __init__(self, model: Module | None) -> None:
        self._number, self._count = next(_numbers), 0
        self.frozen = model is None
        if model is not None:
            self._model = ref(model)
            _versions.add(self)

    @property
    def uid(self) -> str:
        return f"policy-{self._number}@{self._count}"

    def raise_by_one(self) -> None:
        self._count += 1

    def holds_one_of(self, parameters: set[int]) -> bool:
        """Whether one of these ids belongs to a parameter of the model."""
        model = self._model()
        return model is not None and any(id(p) in parameters for p in model.parameters())


def _stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    changed = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for version in list(_versions):
        if version.holds_one_of(changed):
            version.raise_by_one()


register_optimizer_step_post_hook(_stepped)
