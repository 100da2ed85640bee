"""Gradient checkpointing: recompute layer activations in the backward pass to save memory."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from selfplay.core import SelfplayError


def prepare(model: PreTrainedModel, path: str) -> None:
    """Enable gradient checkpointing for use within `checkpointed`.

    Args:
        model: the model.
        path: its path, for messages.

    Raises:
        SelfplayError: the architecture does not support it.
    """
    if not _layers(model):
        raise SelfplayError(
            f"'{path}' does not support gradient checkpointing; leave out player.gradient_checkpointing, and lower "
            "update.micro_batch if memory is short"
        )
    with warnings.catch_warnings():  # the new name does not exist in every supported version
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@contextmanager
def checkpointed(model: Module) -> Iterator[None]:
    """Checkpoint the layers run in this context if gradients are enabled. Dropout stays off.

    transformers checkpoints only layers in training mode, so the mode of the layers is set, but not that of their
    submodules.
    """
    layers = _layers(model) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def runs_again(model: Module) -> bool:
    """Whether layers run now are recomputed in the backward pass."""
    return any(layer.training for layer in _layers(model))


def _layers(model: Module) -> list[Module]:
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
