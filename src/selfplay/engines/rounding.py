"""Rounding error of a model's log-probabilities: the tolerance that separates rounding from a bug.

The error is measured on the model itself. A forward pass runs twice with the same weights and inputs, in the precision
of the policy and in a higher one (float32 for bfloat16, float64 for float32); the largest difference in log-probability
over the vocabulary is the rounding error. Sampler and learner each round once, in a different order, so they differ by
at most twice the largest measured error; FACTOR doubles that for positions that were not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleList
from transformers import PreTrainedModel

from selfplay.engines.logprobs import CHUNK, Menu, right_padded
from selfplay.engines.truncation import Truncation
from selfplay.models.structure import body_of

FACTOR = 4.0


@torch.no_grad()
def of_replies(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    replies: Tensor,
    mask: Tensor,
    temperature: float,
    truncation: Truncation,
) -> Tensor:
    """[B, T] float32, how much two computations of `reply_logprobs` may differ by rounding, 0 outside the mask.

    This is FACTOR x the largest rounding error over these tokens' distributions, plus, for a truncated distribution,
    the effect of tokens so close to the threshold that rounding decides whether they are kept.

    Args:
        model, prompts, replies, mask, temperature, truncation: as for `reply_logprobs`.
    """
    found = torch.zeros(mask.shape)
    if not bool(mask.any()):
        return found
    where = mask.nonzero(as_tuple=True)
    states, fine = _both(model, prompts, replies, mask)
    head, tokens = model.get_output_embeddings(), replies.to(states.device)[mask.to(states.device)]
    parts = list(
        zip(*(torch.split(x, max(1, CHUNK // head.weight.shape[0])) for x in (states, fine, tokens)), strict=True)
    )
    rounded = [_apart(head, one, other, temperature) for one, other, _ in parts]
    most = FACTOR * float(torch.cat(rounded).max())
    found[where] = most
    if not truncation.keeps_all:
        doubts = [truncation.doubt(_logits(head, one, temperature), part, most) for one, _, part in parts]
        found[where] += torch.cat(doubts).cpu()
    return found


@torch.no_grad()
def of_menus(model: PreTrainedModel, menus: Sequence[Menu], temperature: float) -> Tensor:
    """[N] the same for `choice_logprobs`: the largest error over a menu's choices, divided by the temperature.

    The rounding errors of a choice's tokens have random signs, so they add in quadrature.
    """
    found = []
    for prompt, choices in menus:
        replies = torch.nn.utils.rnn.pad_sequence([torch.tensor(choice) for choice in choices], batch_first=True)
        mask = torch.arange(replies.shape[1]) < torch.tensor(list(map(len, choices)))[:, None]
        each = of_replies(model, [torch.tensor(prompt)] * len(choices), replies, mask, 1.0, Truncation(0, 1.0, 0.0))
        found.append(float(torch.linalg.vector_norm(each, dim=1).max()) / temperature)
    return torch.tensor(found)


def _both(model: PreTrainedModel, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[M, H] the hidden states that predict the replies' tokens, in the current precision and in a higher one."""
    ids, starts = (x.to(model.device) for x in right_padded(prompts, replies, mask))
    rows, columns = mask.to(model.device).nonzero(as_tuple=True)
    kind = model.device.type
    coarse = torch.is_autocast_enabled(kind) or model.dtype != torch.float32
    body = body_of(model)

    def states() -> Tensor:
        hidden: Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[rows, starts[rows] + columns - 1]

    ours = states()
    with torch.autocast(kind, enabled=False), finer(body, torch.float32 if coarse else torch.float64):
        return ours, states()


def _logits(head: Any, states: Tensor, temperature: float) -> Tensor:
    logits: Tensor = head(states).float() / temperature
    return logits


def _apart(head: Any, states: Tensor, fine: Tensor, temperature: float) -> Tensor:
    """[M] the largest difference in log-probability over the vocabulary."""
    ours = torch.log_softmax(_logits(head, states, temperature), -1)
    with torch.autocast(states.device.type, enabled=False), finer(head, fine.dtype):
        right = torch.log_softmax(head(fine) / temperature, -1)
    return (ours - right).abs().nan_to_num(0.0, 0.0).amax(-1).float()


@contextmanager
def finer(module: Module, dtype: torch.dtype) -> Iterator[None]:
    """Run a module in another precision, converting the weights of each block only while it executes.

    The weights are restored bit for bit. FlashAttention, which does not support it, is replaced by PyTorch's SDPA.
    """
    kept: dict[Any, Tensor] = {}

    def convert(parameters: list[Any]) -> None:
        for p in parameters:
            if p.is_floating_point() and p not in kept:
                kept[p] = p.data
                p.data = p.data.to(dtype)

    def restore(parameters: list[Any]) -> None:
        for p in parameters:
            if p in kept:
                p.data = kept.pop(p)

    config: Any = getattr(module, "config", None)
    kernel = getattr(config, "_attn_implementation", None)
    with ExitStack() as stack:
        for block, parameters in _blocks(module):
            begin = block.register_forward_pre_hook(lambda block, given, some=parameters: convert(some))
            end = block.register_forward_hook(lambda block, given, out, some=parameters: restore(some))
            stack.callback(begin.remove)
            stack.callback(end.remove)
        if kernel == "flash_attention_2":
            config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            restore(list(kept))
            if kernel == "flash_attention_2":
                config._attn_implementation = kernel


def _blocks(module: Module) -> list[tuple[Module, list[Any]]]:
    """The submodules that run one after another, each with its parameters, and the module itself with the rest."""
    parts: list[Module] = []
    for child in module.children():
        parts += list(child) if isinstance(child, ModuleList) else [child]
    return [(module, list(module.parameters(recurse=False))), *((part, list(part.parameters())) for part in parts)]
