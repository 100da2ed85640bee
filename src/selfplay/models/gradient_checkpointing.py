"""Gradient checkpointing: layers are run again in the backward pass instead of remembered, for less memory."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from selfplay.core import SelfplayError


def prepare(model: PreTrainedModel, path: str) -> None:
    """Let a model's layers be recomputed within `checkpointed`.

    Raises:
        SelfplayError: its architecture has no such layers.
    """
    if not _layers(model):
        raise SelfplayError(
            f"the layers of '{path}' cannot be recomputed; leave out player.gradient_checkpointing, and lower "
            "update.micro_batch where memory is short"
        )
    with warnings.catch_warnings():  # its newer name is not there in every version that we take
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@contextmanager
def checkpointed(model: Module) -> Iterator[None]:
    """Layers run in here forget what they computed, where there is a gradient. Dropout stays off.

    transformers recomputes what is in training mode alone, so the layers are; what is within them stays as it was.
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
    """Whether what is run now is run again in the backward pass."""
    return any(layer.training for layer in _layers(model))


def _layers(model: Module) -> list[Module]:
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
