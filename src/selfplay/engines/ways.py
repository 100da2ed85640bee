"""Which of several equivalent implementations a model uses, and how to repeat the trials that choose them."""

from __future__ import annotations

from transformers import PreTrainedModel

from selfplay.engines.engine import Engine
from selfplay.engines.llama.layers import can_flash, can_pack, has_own_layers
from selfplay.engines.llama.trial import can_decode
from selfplay.engines.llama.varlen import prefer, prefers_flash
from selfplay.engines.transformers.decode import way_of
from selfplay.models.trial import forget

__all__ = ["check_readable", "prefer", "ways_of"]


def check_readable(model: PreTrainedModel) -> None:
    """Raise SelfplayError if no generation method gives each text the logits that it gets alone."""
    if not can_decode(model):
        way_of(model)


def ways_of(model: PreTrainedModel, engine: Engine, again: bool, checkpointing: bool) -> dict[str, str]:
    """The implementation used for each computation.

    Args:
        model: a causal language model.
        engine: generates its replies.
        again: repeat the trials with the current weights.
        checkpointing: whether gradient checkpointing is enabled.
    """
    if again:
        forget(model)
    packed = can_pack(model)
    own = packed and has_own_layers(model) and not checkpointing
    flash = {"packed attention": "flash" if own and can_flash(model) else "mask"} if prefers_flash(model) else {}
    return flash | {
        "sampling": engine.way(model),
        "log-probabilities": "own layers" if own else "transformers' modules",
        "prompts": "computed once for all replies" if packed else "computed for each reply",
    }
