"""Base class of language-model policies: trainable parameters, snapshots and checkpoints."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfplay.core import Policy
from selfplay.engines.versions import Version
from selfplay.models import checkpoints
from selfplay.models.adapters import Adapter
from selfplay.parallel import current


class TrainedModel(Policy):
    """A policy that trains a transformers model, or a LoRA adapter over one.

    Attributes:
        model: the model, including the adapter if there is one.
        tokenizer: saved with the weights.
        adapter: the LoRA adapter; None for full fine-tuning.
        frozen_adapter: the adapter weights of a LoRA snapshot, which shares the model with the live policy.
        version: counts the changes of the weights.
        compute_dtype: precision of matrix products; None: the precision of the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: Adapter | None
    frozen_adapter: dict[str, Tensor] | None
    version: Version
    compute_dtype: torch.dtype | None

    def parameters(self) -> list[Parameter]:
        if self.frozen_adapter is not None:
            return []
        return [p for p in self.model.parameters() if p.requires_grad]

    def snapshot(self) -> Self:
        """A frozen copy. With LoRA it shares the frozen weights and owns only a copy of the adapter."""
        twin = copy.copy(self)
        if self.adapter is not None:
            with self.own_weights():
                twin.frozen_adapter = {n: p.detach().clone() for n, p in self.adapter.weights.items()}
        else:
            twin.model = current().copied(self.model).requires_grad_(False).eval()
        twin.version = Version(None)
        return twin

    @torch.no_grad()
    def restore(self, snapshot: Policy) -> None:
        assert isinstance(snapshot, TrainedModel) and (snapshot.adapter is None) == (self.adapter is None)
        self.version.raise_by_one()
        if self.adapter is None or snapshot.adapter is None:
            checkpoints.copy_weights(snapshot.model, self.model)
            return
        kept = snapshot.frozen_adapter or snapshot.adapter.weights
        for name, p in self.adapter.weights.items():
            p.copy_(kept[name])

    @property
    def lora(self) -> bool:
        """Whether an adapter is trained instead of the model."""
        return self.adapter is not None

    @contextmanager
    def own_weights(self) -> Iterator[None]:
        """Swap in the adapter of a LoRA snapshot, without gradient; no effect for live policies."""
        if self.frozen_adapter is None or self.adapter is None:
            yield
            return
        live = {n: p.data for n, p in self.adapter.weights.items()}
        with torch.no_grad():
            try:
                for n, p in self.adapter.weights.items():
                    p.data = self.frozen_adapter[n]
                yield
            finally:
                for n, p in self.adapter.weights.items():
                    p.data = live[n]

    @contextmanager
    def forward_passes(self) -> Iterator[None]:
        """Context for forward passes with this policy's weights and precision."""
        with (
            self.own_weights(),
            torch.autocast(self.model.device.type, self.compute_dtype, enabled=self.compute_dtype is not None),
        ):
            yield

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write a folder that `from_pretrained` can load (with LoRA, an adapter folder for peft)."""
        with self.own_weights():
            if self.adapter is None:
                checkpoints.save(self.model, folder)
            else:
                self.adapter.save(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        self.version.raise_by_one()
        if self.adapter is None:
            checkpoints.load(self.model, folder)
        else:
            self.adapter.load(folder)
