"""The transformers engine: continuous batching over a shared paged cache, without padding.

transformers provides the scheduler, the cache and the forward pass (those of `generate_batch`). This module provides
the loop around them, in the caller's thread so that exceptions and Ctrl-C work, and token sampling with per-request
uniforms. `generate_batch` samples with the global generator, so a completion would depend on the rest of its batch.

Undocumented names of transformers that this module uses:
    model.init_continuous_batching -> manager: logit_processor, warmup, batch_processor, add_request, get_result
    batch_processor: reset, prepare_next_batch, update_batch, cache.reset, inputs_and_outputs.get_model_kwargs,
        model_runner.compute_batch, inputs_and_outputs.retrieve_device_outputs
    ContinuousBatchingLogitsProcessorList: prepare_tensor_args, __call__
If one of them is missing or changes, the trial that each model must pass raises SelfplayError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet, finalize

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from selfplay.core import SelfplayError, at_least
from selfplay.devices import exact_float32
from selfplay.engines.engine import Completion, Engine, Mixture, Prompt, Sampling, Weights
from selfplay.engines.sampling import choose, uniforms
from selfplay.models.structure import bare
from selfplay.models.trial import moved_adapters
from selfplay.options import Count

TRIAL = (12, 5, 9, 1)  # lengths of the trial prompts, in tokens
GENERATED = 4  # tokens generated after each
LONG = 1024  # largest sliding window that a trial prompt exceeds, in tokens


class TransformersEngine(Engine):
    """Samples with transformers' continuous batching, in the precision of the weights.

    Args:
        page: tokens per page of the cache.
        batch_tokens: maximum tokens per forward pass; longer prompts are prefilled in chunks.
        share: whether prompts with a common prefix share pages within one call.
        attention: attention implementation for sampling, such as "flash_attention_2" on a GPU; None: the model's own.
    """

    exact = False

    def __init__(
        self, page: Count = 16, batch_tokens: Count = 512, share: bool = True, attention: str | None = None
    ) -> None:
        at_least(1, **{"engine.page": page, "engine.batch_tokens": batch_tokens})
        self.page, self.batch_tokens, self.share, self.attention = page, batch_tokens, share, attention
        self._kept: list[_Session] = []  # at most one session
        finalize(self, self._kept.clear)  # also at interpreter exit, since transformers cannot clean up later
        self._passed: WeakSet[PreTrainedModel] = WeakSet()

    def generate(
        self, weights: Weights | Mixture, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        if isinstance(weights, Mixture):
            raise SelfplayError("engine=transformers cannot sample from a mixture of two models; take engine=embedded")
        model = bare(weights.model)
        if model not in self._passed:
            self._try(model)
            self._passed.add(model)
        with weights.placed():
            return self._generate(model, prompts, keys, sampling)

    def way(self, model: Any) -> str:
        return "transformers' continuous batching"

    def rest(self) -> None:
        self._kept.clear()

    def _generate(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        if not prompts:
            return []
        if not all(prompts):
            raise SelfplayError("a prompt has no tokens; give each prompt at least one")
        try:
            with _reading(model, self.attention):
                return self._session_for(model, prompts, sampling).generate(prompts, keys, sampling)
        except BaseException:  # including Ctrl-C: requests are left in the cache
            self.rest()
            raise

    def _session_for(self, model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling) -> _Session:
        """The session of the last call if it has the same model and enough room, else a new one."""
        rows = min(sampling.batch_size, len(prompts))
        pages = -(-(max(map(len, prompts)) + sampling.max_tokens) // self.page) * rows
        if not any(s.model is model and s.rows >= rows and s.pages >= pages for s in self._kept):
            self.rest()
            tokens = max(rows, self.batch_tokens)
            self._kept.append(_Session(model, rows, pages, self.page, tokens, self.share))
        return self._kept[0]

    def _try(self, model: PreTrainedModel) -> None:
        """Raise SelfplayError unless the log-probabilities of a few short completions match plain forward passes.

        The cache is laid out from the model's config, which may not describe what its attention does.
        """
        vocabulary = model.get_output_embeddings().weight.shape[0]
        window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
        lengths = (*TRIAL, window + 1) if window <= LONG else TRIAL
        prompts = [tuple((7 + n + i) % vocabulary for i in range(n)) for n in lengths]
        try:
            with moved_adapters(model), exact_float32(), _plainly(model):
                found = self._generate(model, prompts, [str(n) for n in lengths], Sampling(GENERATED))
                apart = max(_apart(model, prompt, one) for prompt, one in zip(prompts, found, strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an architecture or version of transformers may raise anything
            raise SelfplayError(_cannot(model, (str(error).strip() or type(error).__name__).split("\n")[0])) from error
        finally:
            self.rest()
        if not apart <= min(0.1, 50 * torch.finfo(model.dtype).eps ** 0.75):
            raise SelfplayError(_cannot(model, f"log-probabilities are off by {apart:.2g}"))


@dataclass
class _Sampler(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """Samples tokens in place of the logits processors; the returned scores are 1 for the sampled token, else 0.

    Attributes:
        sampling: see `Sampling`.
        uniforms: [N, T] float64, one row per request.
        sampled: each request's tokens so far with their log-probabilities.
        rows: the requests of the next logits, in order; further rows of logits are unused.
    """

    sampling: Sampling
    uniforms: Tensor
    sampled: list[list[tuple[int, float]]]
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Tensor) -> Tensor:
        self.rows = [int(request.state.request_id) for request in requests_in_batch if request.has_new_token]
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        rows, taken = self.rows, torch.zeros_like(scores)
        if rows:
            points = self.uniforms[rows, [len(self.sampled[i]) for i in rows]]
            logits, how = scores[: len(rows)], self.sampling
            tokens, logps = choose(logits, points, how.temperature, how.truncation)
            taken[: len(rows)].scatter_(-1, tokens[:, None], 1.0)
            for i, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
                self.sampled[i].append((token, logp))
        return taken


class _Session:
    """A paged cache of fixed size and the manager that runs a model over it, reused between calls."""

    def __init__(
        self, model: PreTrainedModel, rows: int, pages: int, page: int, batch_tokens: int, share: bool
    ) -> None:
        self.model, self.rows, self.pages = model, rows, pages
        self.sampler = _Sampler(Sampling(0), torch.empty(0), [])
        config = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=pages + 1,
            max_batch_tokens=batch_tokens,
            max_requests_per_batch=rows,
            allow_block_sharing=share,
            safety_margin=0.0,  # the cache has room for every row
            auto_switch_to_flash=False,
            use_cuda_graph=False,  # sampling synchronises with the host, and graphs would hold memory
            use_async_batching=False,  # `_Sampler.rows` must belong to the next logits
        )
        plain = GenerationConfig(do_sample=False, eos_token_id=-1)
        self.manager = model.init_continuous_batching(plain, config)
        self.manager.logit_processor = self.sampler
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # warmup sets the global seed
            self.manager.warmup()  # needed to create the batch processor, even without graphs

    def generate(self, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling) -> list[Completion]:
        sampler, manager, processor = self.sampler, self.manager, self.manager.batch_processor
        processor.reset()
        processor.cache.reset()  # shared pages of the last call belong to its weights
        sampler.sampling, sampler.sampled = sampling, [[] for _ in prompts]
        sampler.uniforms = torch.from_numpy(np.stack([uniforms(key, sampling.max_tokens) for key in keys]))
        for i, prompt in enumerate(prompts):
            options = {"max_new_tokens": sampling.max_tokens, "eos_token_id": list(sampling.stop_ids)}
            manager.add_request(list(prompt), request_id=str(i), **options)
        while processor.prepare_next_batch():
            _synchronise(self.model)  # inputs and weights are copied on another stream
            inputs = processor.inputs_and_outputs
            processor.model_runner.compute_batch(self.model, inputs.get_model_kwargs())
            inputs.retrieve_device_outputs()
            processor.update_batch()
        outputs = [manager.get_result() for _ in prompts]
        if failed := [out for out in outputs if out is None or out.error is not None]:
            raise RuntimeError(f"a request failed: {failed[0] and failed[0].error}")
        return [_completion(sampled, sampling) for sampled in sampler.sampled]


def _completion(sampled: list[tuple[int, float]], sampling: Sampling) -> Completion:
    """The sampled tokens, truncated where `Sampling.ended` first holds, which is checked after sampling."""
    ids, logprobs = zip(*sampled, strict=True)
    if sampling.ended is not None:
        for n in range(1, len(ids) + 1):
            if sampling.ended(list(ids[:n])):
                return Completion(ids[:n], logprobs[:n], "stop")
    return Completion(ids, logprobs, "stop" if ids[-1] in sampling.stop_ids else "length")


@contextmanager
def _reading(model: PreTrainedModel, attention: str | None) -> Iterator[None]:
    """Inference mode with a paged attention implementation; the model's own is restored afterwards."""
    own = model.config._attn_implementation
    paged = attention or own
    with _plainly(model):
        try:
            model.set_attn_implementation("paged|eager" if paged == "eager" else paged)
            yield
        finally:
            model.set_attn_implementation(own)


@contextmanager
def _plainly(model: PreTrainedModel) -> Iterator[None]:
    """Disable gradients, dropout and autocast: the cache has the precision of the weights."""
    training = model.training
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        try:
            model.eval()
            yield
        finally:
            model.train(training)


def _synchronise(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.current_stream(model.device).synchronize()


def _apart(model: PreTrainedModel, prompt: Prompt, one: Completion) -> float:
    """Maximum difference between a completion's log-probabilities and those of one plain forward pass."""
    ids = torch.tensor([[*prompt, *one.ids]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    plain = torch.log_softmax(logits, -1).cpu().gather(-1, torch.tensor(one.ids)[:, None])[:, 0]
    return float((plain - torch.tensor(one.logprobs)).abs().max())


def _cannot(model: PreTrainedModel, reason: str) -> str:
    return f"engine=transformers cannot sample from {type(model).__name__} ({reason}); take engine=embedded"
