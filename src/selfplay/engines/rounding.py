"""Rounding error of a model's log-probabilities: the tolerance that separates rounding from a bug.

The error is measured on the model itself. A forward pass runs twice with the same weights and inputs, in the precision
of the policy and in a higher one (float32 for bfloat16, float64 for float32); the largest difference in log-probability
over the vocabulary is the rounding error. Sampler and learner each round once, in a different order, so they differ by
at most twice the largest measured error; FACTOR doubles that for positions that were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.devices import exact_float32, sent, sizes_of
from selfplay.engines.logprobs import Menu, right_padded
from selfplay.engines.truncation import Truncation
from selfplay.models.finer import finer
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
    head, tokens = model.get_output_embeddings(), sent(replies[mask], states.device)
    size = max(1, sizes_of(states.device).logits // head.weight.shape[0])
    parts = list(zip(*(torch.split(x, size) for x in (states, fine, tokens)), strict=True))
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
    ids, starts = right_padded(prompts, replies, mask)
    rows, columns = mask.nonzero(as_tuple=True)
    ids, rows, before = (sent(x, model.device) for x in (ids, rows, starts[rows] + columns - 1))
    kind = model.device.type
    coarse = torch.is_autocast_enabled(kind) or model.dtype != torch.float32
    body = body_of(model)

    def states() -> Tensor:
        hidden: Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[rows, before]

    ours = states()
    with torch.autocast(kind, enabled=False), exact_float32(), finer(body, torch.float32 if coarse else torch.float64):
        return ours, states()


def _logits(head: Any, states: Tensor, temperature: float) -> Tensor:
    logits: Tensor = head(states).float() / temperature
    return logits


def _apart(head: Any, states: Tensor, fine: Tensor, temperature: float) -> Tensor:
    """[M] the largest difference in log-probability over the vocabulary."""
    ours = torch.log_softmax(_logits(head, states, temperature), -1)
    with torch.autocast(states.device.type, enabled=False), exact_float32(), finer(head, fine.dtype):
        right = torch.log_softmax(head(fine) / temperature, -1)
    return (ours - right).abs().nan_to_num(0.0, 0.0).amax(-1).float()
