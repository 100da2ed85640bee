"""The embedded engine: our own decoder for the Llama family, transformers' modules for other architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from selfplay.console import say
from selfplay.engines.engine import Completion, Engine, Mixture, Prompt, Sampling, Weights
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.graphs import Capture, capture_on
from selfplay.engines.llama.trial import can_capture, can_decode
from selfplay.engines.mixture import MixedModel
from selfplay.engines.sampling import sample


class EmbeddedEngine(Engine):
    """Samples in this process, in the learner's precision; each prompt and shared prefix is computed once.

    For the Llama family it keeps at most two decoders until `rest`: of the last live weights, and of the last snapshot.
    Each takes about as much memory as the weights.

    Args:
        cuda_graphs: whether token steps are recorded as CUDA graphs, where a trial finds them right
            (`selfplay.engines.llama.graphs`).
    """

    exact = True

    def __init__(self, cuda_graphs: bool = False) -> None:
        self.cuda_graphs = cuda_graphs
        self._kept: dict[bool, tuple[tuple[str, torch.dtype], Decoder]] = {}  # whether frozen -> its key and decoder

    def generate(
        self, weights: Weights | Mixture, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        if isinstance(weights, Mixture):
            return sample(MixedModel(weights), prompts, keys, sampling)
        with weights.placed():
            return sample(self.reader(weights), prompts, keys, sampling)

    def way(self, model: Any) -> str:
        return "own layers" if can_decode(model) else "transformers' modules"

    def reader(self, weights: Weights) -> Decoder | PreTrainedModel:
        """What to pass to `sample`: a decoder if supported, else the model itself. The weights must be in place."""
        model: Any = weights.model
        if not can_decode(model):
            return model
        dtype = weights.compute_dtype or model.dtype
        key, kept = (weights.uid, dtype), self._kept.pop(weights.frozen, None)
        if kept is None or kept[0] != key:
            kept = None  # free its memory before building the next one
            kept = key, Decoder(model, dtype, capture=self._capture(model, dtype))
        self._kept[weights.frozen] = kept
        return kept[1]

    def _capture(self, model: Any, dtype: torch.dtype) -> Capture | None:
        if self.cuda_graphs and not can_capture(model, dtype):
            say(f"note: token steps cannot be recorded on {model.device.type}; engine.cuda_graphs is false from now on")
            self.cuda_graphs = False
        return capture_on(model.device) if self.cuda_graphs else None

    def rest(self) -> None:
        self._kept.clear()


def resolve(engine: Engine | None) -> Engine:
    """The given engine, or an embedded engine for None."""
    return EmbeddedEngine() if engine is None else engine
