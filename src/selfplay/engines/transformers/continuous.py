"""The transformers engine: continuous batching over a paged cache that all requests share, without padding.

transformers has the scheduler, the cache and the forward pass (those of `generate_batch`). Ours are the loop around
them, in the thread of the caller (with its exceptions and its Ctrl-C), and the draw of each token, from uniforms that
belong to its request alone: `generate_batch` draws from the global generator, so that a completion would depend on the
other requests of its batch.

Names of transformers that this module uses beside documented ones:
    model.init_continuous_batching -> manager: logit_processor, warmup, batch_processor, add_request, get_result
    batch_processor: reset, prepare_next_batch, update_batch, cache.reset, inputs_and_outputs.get_model_kwargs,
        model_runner.compute_batch, inputs_and_outputs.retrieve_device_outputs
    ContinuousBatchingLogitsProcessorList: prepare_tensor_args, __call__
Where one of them is gone or does something else, the trial that each model has to pass fails with one sentence.
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
from selfplay.engines.engine import Completion, Engine, Mixture, Prompt, Sampling, Weights
from selfplay.engines.sampling import choose, uniforms
from selfplay.models.structure import bare
from selfplay.models.trial import moved_adapters
from selfplay.options import Count

TRIAL = (12, 5, 9, 1)  # tokens of each prompt of a trial
GENERATED = 4  # tokens that a trial generates after each
LONG = 1024  # tokens; a sliding window of so many at most is crossed by a trial


class TransformersEngine(Engine):
    """Samples with transformers' continuous batching, in the precision of the weights.

    Args:
        page: tokens in a page of the cache.
        batch_tokens: the most tokens that a forward pass reads; longer prompts are read in parts.
        share: whether prompts that begin alike share pages, within one call.
        attention: the model's attention while it samples, such as "flash_attention_2" on a GPU; None: its own.
    """

    exact = False

    def __init__(
        self, page: Count = 16, batch_tokens: Count = 512, share: bool = True, attention: str | None = None
    ) -> None:
        at_least(1, **{"engine.page": page, "engine.batch_tokens": batch_tokens})
        self.page, self.batch_tokens, self.share, self.attention = page, batch_tokens, share, attention
        self._kept: list[_Session] = []  # one at most
        finalize(self, self._kept.clear)  # also at exit, where transformers cannot clean up any more
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

    def rest(self) -> None:
        self._kept.clear()

    def _generate(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling
    ) -> list[Completion]:
        if not prompts:
            return []
        if not all(prompts):
            raise SelfplayError("a prompt has no token, so nothing can be sampled after it")
        try:
            with _reading(model, self.attention):
                return self._session_for(model, prompts, sampling).generate(prompts, keys, sampling)
        except BaseException:  # Ctrl-C too: requests were left in the cache
            self.rest()
            raise

    def _session_for(self, model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling) -> _Session:
        """The last call's, if that was of this model and has room for these prompts; or else a new one."""
        rows = min(sampling.batch_size, len(prompts))
        pages = -(-(max(map(len, prompts)) + sampling.max_tokens) // self.page) * rows
        if not any(s.model is model and s.rows >= rows and s.pages >= pages for s in self._kept):
            self.rest()
            tokens = max(rows, self.batch_tokens)
            self._kept.append(_Session(model, rows, pages, self.page, tokens, self.share))
        return self._kept[0]

    def _try(self, model: PreTrainedModel) -> None:
        """Raise SelfplayError unless a few short completions have the probabilities that the model gives them.

        The cache takes a model's layers from its config, and does not see what its attention does with them.
        """
        vocabulary = model.get_output_embeddings().weight.shape[0]
        window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
        lengths = (*TRIAL, window + 1) if window <= LONG else TRIAL
        prompts = [tuple((7 + n + i) % vocabulary for i in range(n)) for n in lengths]
        try:
            with moved_adapters(model), _plainly(model):
                found = self._generate(model, prompts, [str(n) for n in lengths], Sampling(GENERATED))
                apart = max(_apart(model, prompt, one) for prompt, one in zip(prompts, found, strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture, or another version of transformers, raises
            raise SelfplayError(_cannot(model, (str(error).strip() or type(error).__name__).split("\n")[0])) from error
        finally:
            self.rest()
        if not apart <= min(0.1, 50 * torch.finfo(model.dtype).eps ** 0.75):
            raise SelfplayError(_cannot(model, f"log-probabilities are off by {apart:.2g}"))


@dataclass
class _Draw(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """The draw in the place of logits processors: afterwards the token that was drawn has the largest score.

    Attributes:
        uniforms: [N, T] float64, a row for each request.
        drawn: each request's tokens so far and their log-probabilities.
        rows: the requests that the next logits belong to, in their order; rows of logits beyond are of no use.
    """

    sampling: Sampling
    uniforms: Tensor
    drawn: list[list[tuple[int, float]]]
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
            points = self.uniforms[rows, [len(self.drawn[i]) for i in rows]]
            logits, how = scores[: len(rows)], self.sampling
            tokens, logps = choose(logits, points, how.temperature, how.truncation)
            taken[: len(rows)].scatter_(-1, tokens[:, None], 1.0)
            for i, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
                self.drawn[i].append((token, logp))
        return taken


class _Session:
    """A paged cache of some size, and what runs a model over it, call after call."""

    def __init__(
        self, model: PreTrainedModel, rows: int, pages: int, page: int, batch_tokens: int, share: bool
    ) -> None:
        self.model, self.rows, self.pages = model, rows, pages
        self.draw = _Draw(Sampling(0), torch.empty(0), [])
        config = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=pages + 1,
            max_batch_tokens=batch_tokens,
            max_requests_per_batch=rows,
            allow_block_sharing=share,
            safety_margin=0.0,  # there is a place for each row
            auto_switch_to_flash=False,
            use_cuda_graph=False,  # the draw comes back to the host; and graphs would keep the memory
            use_async_batching=False,  # `_Draw.rows` are of the logits that come next
        )
        plain = GenerationConfig(do_sample=False, eos_token_id=-1)
        self.manager = model.init_continuous_batching(plain, config)
        self.manager.logit_processor = self.draw
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # it would set the global seed
            self.manager.warmup()  # nothing to warm up without graphs, but this makes the batch processor

    def generate(self, prompts: Sequence[Prompt], keys: Sequence[str], sampling: Sampling) -> list[Completion]:
        draw, manager, processor = self.draw, self.manager, self.manager.batch_processor
        processor.reset()
        processor.cache.reset()  # shared pages of the last call were read with its weights
        draw.sampling, draw.drawn = sampling, [[] for _ in prompts]
        draw.uniforms = torch.from_numpy(np.stack([uniforms(key, sampling.max_tokens) for key in keys]))
        for i, prompt in enumerate(prompts):
            how = {"max_new_tokens": sampling.max_tokens, "eos_token_id": list(sampling.stop_ids)}
            manager.add_request(list(prompt), request_id=str(i), **how)
        while processor.prepare_next_batch():
            _synchronise(self.model)  # inputs, and weights, come by another stream
            inputs = processor.inputs_and_outputs
            processor.model_runner.compute_batch(self.model, inputs.get_model_kwargs())
            inputs.retrieve_device_outputs()
            processor.update_batch()
        outputs = [manager.get_result() for _ in prompts]
        if failed := [out for out in outputs if out is None or out.error is not None]:
            raise RuntimeError(f"a request failed: {failed[0] and failed[0].error}")
        return [_completion(drawn, sampling) for drawn in draw.drawn]


def _completion(drawn: list[tuple[int, float]], sampling: Sampling) -> Completion:
    """What was drawn, up to where `Sampling.ended` ends it: that is looked for when all is drawn."""
    ids, logprobs = zip(*drawn, strict=True)
    if sampling.ended is not None:
        for n in range(1, len(ids) + 1):
            if sampling.ended(list(ids[:n])):
                return Completion(ids[:n], logprobs[:n], "stop")
    return Completion(ids, logprobs, "stop" if ids[-1] in sampling.stop_ids else "length")


@contextmanager
def _reading(model: PreTrainedModel, attention: str | None) -> Iterator[None]:
    """Plain passes with an attention that knows pages; afterwards the model has its own again."""
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
    """Without gradient or dropout, in the precision of the weights, which the cache has, too."""
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
    """How far a completion's log-probabilities are from those of one plain forward pass."""
    ids = torch.tensor([[*prompt, *one.ids]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    plain = torch.log_softmax(logits, -1).cpu().gather(-1, torch.tensor(one.ids)[:, None])[:, 0]
    return float((plain - torch.tensor(one.logprobs)).abs().max())


def _cannot(model: PreTrainedModel, reason: str) -> str:
    return f"engine=transformers cannot sample from {type(model).__name__} ({reason}); take engine=embedded"
