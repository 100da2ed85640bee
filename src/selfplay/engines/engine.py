"""Who generates tokens: the interface of an engine, and what it is given and gives back.

A learner's log-probabilities are always computed by PyTorch (`selfplay.engines.logprobs`); an engine samples.
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
    """The distribution that tokens are drawn from, and when a completion ends.

    Attributes:
        max_tokens: the longest completion.
        temperature: logits are divided by it; 0 takes the most likely token, whose log-probability is then given at
            temperature 1.
        truncation: top-k, top-p and min-p.
        stop_ids: tokens that end a completion and are part of it.
        pad_id: a token to fill rows with; it is masked out.
        batch_size: the most completions that are generated side by side.
        ended: the tokens so far -> whether the completion ends after them; None where only tokens end it.
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
    """Sampled tokens.

    Attributes:
        ids: the token ids, with the stop token where one was sampled.
        logprobs: natural-log probability of each token under the distribution it was sampled from.
        finish_reason: "stop" where a stop token or `Sampling.ended` ended it, else "length".
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Weights:
    """The weights of a causal language model at one version.

    Attributes:
        uid: names their values; an engine that keeps a copy makes a new one for a uid that it has not seen.
        model: a causal language model of transformers.
        placed: gives a context in which `model` has these weights; those of an adapter's snapshot are swapped in.
        compute_dtype: the precision of matrix products over float32 weights; None: that of the weights.
        live: whether `model` has these weights outside of `placed`, too.
    """

    uid: str
    model: Any
    placed: Callable[[], AbstractContextManager[None]]
    compute_dtype: torch.dtype | None = None
    live: bool = True


@dataclass(frozen=True)
class Mixture:
    """Weights of two models with one vocabulary: next-token logits (1 - coefficient) first + coefficient second.

    At any temperature this is the geometric mixture of the two tempered distributions.
    """

    first: Weights
    second: Weights
    coefficient: float

    @property
    def uid(self) -> str:
        return f"{self.first.uid}+{self.coefficient}*{self.second.uid}"


class Engine(ABC):
    """Generates completions with the weights that it is given.

    Attributes:
        exact: whether its log-probabilities are the learner's up to rounding. The updates of an engine that is not
            exact correct for the difference, see `selfplay.updates.mismatch`.
    """

    exact: bool

    @abstractmethod
    def generate(
        self, weights: Weights | Mixture, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        """One completion a prompt: a function of the prompt, its key and the weights, up to rounding.

        Engines may differ in the tokens that they draw for a key, but not in the distribution.

        Raises:
            SelfplayError: the engine cannot generate with this model, or the logits are not finite.
        """

    def rest(self) -> None:
        """Give memory back; called before a gradient is computed. The next `generate` takes what it needs."""
        return
