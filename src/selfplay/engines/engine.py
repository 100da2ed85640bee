"""The interface of a generation engine, with its inputs and outputs.

An engine only samples; the learner's log-probabilities always come from PyTorch (`selfplay.engines.logprobs`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from selfplay.engines.truncation import ALL, Truncation

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters: the next-token distribution and the stopping criteria.

    Attributes:
        max_tokens: maximum number of tokens in a completion.
        temperature: divides the logits; 0 means greedy decoding, with log-probabilities reported at temperature 1.
        truncation: top-k, top-p and min-p filtering.
        stop_ids: tokens that end a completion; the completion includes them.
        pad_id: padding token; it is masked out.
        batch_size: maximum number of completions generated in parallel.
        ended: maps the tokens so far to whether the completion stops; None to stop at `stop_ids` only.
    """

    max_tokens: int
    temperature: float = 1.0
    truncation: Truncation = ALL
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    batch_size: int = 64
    ended: Callable[[list[int]], bool] | None = None


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
        ids: the token ids, including the stop token if one was sampled.
        logprobs: natural-log probability of each token under the distribution it was sampled from.
        finish_reason: "stop" if a stop token or `Sampling.ended` ended the completion, otherwise "length".
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Weights:
    """One version of the weights of a causal language model.

    Attributes:
        uid: identifies the values; an engine that caches a copy refreshes it when the uid changes.
        model: a causal language model from transformers.
        placed: returns a context in which `model` holds these weights (an adapter snapshot is swapped in).
        compute_dtype: precision of matrix products with float32 weights; None: the precision of the weights.
        live: whether `model` also holds these weights outside `placed`.
        frozen: whether nothing changes these weights, as those of a snapshot.
    """

    uid: str
    model: Any
    placed: Callable[[], AbstractContextManager[None]]
    compute_dtype: torch.dtype | None = None
    live: bool = True
    frozen: bool = False


@dataclass(frozen=True)
class Mixture:
    """Two models with a shared vocabulary, mixed as next-token logits (1 - coefficient) first + coefficient second.

    At any temperature this is the geometric mixture of the two tempered distributions.
    """

    first: Weights
    second: Weights
    coefficient: float

    @property
    def uid(self) -> str:
        return f"{self.first.uid}+{self.coefficient}*{self.second.uid}"


class Engine(ABC):
    """Generates completions with the given weights.

    Attributes:
        exact: whether the engine's log-probabilities equal the learner's up to rounding. If not, updates correct for
            the mismatch, see `selfplay.updates.mismatch`.
        concurrent: whether several threads may call `generate` at a time.
    """

    exact: bool
    concurrent: bool = False

    @abstractmethod
    def generate(
        self, weights: Weights | Mixture, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        """Sample one completion per prompt.

        Up to rounding, a completion depends only on its prompt, its key and the weights. Engines may sample different
        tokens for the same key, but from the same distribution.

        Raises:
            SelfplayError: the engine does not support this model, or the logits are not finite.
        """

    def way(self, model: Any) -> str:
        """How it samples from the model, in a few words for the record of a run."""
        return type(self).__name__

    def rest(self) -> None:
        """Release memory before a gradient computation; the next `generate` allocates it again."""
        return
