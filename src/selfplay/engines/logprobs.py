"""Log-probabilities of given replies, computed at reply positions only and in chunks, without [B, T, V] logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from selfplay.devices import sent, sizes_of
from selfplay.engines.last_hidden import last_states
from selfplay.engines.llama.layers import can_pack, choose_layout, states_at
from selfplay.engines.truncation import ALL, Truncation
from selfplay.models.structure import body_of, is_plain

Menu = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]  # a prompt and its possible replies, as token ids
LEAST = 512  # minimum vocabulary entries per chunk


def right_padded(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts and replies concatenated, [B, L] int64 right-padded with 0, and the start of each reply, [B]."""
    starts = torch.tensor([len(p) for p in prompts])
    lengths = mask.sum(1)
    ids = torch.zeros(len(prompts), int((starts + lengths).max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        start, length = len(prompt), int(lengths[row])
        ids[row, :start] = prompt
        ids[row, start : start + length] = replies[row, :length]
    return ids, starts


def reply_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    replies: Tensor,
    mask: Tensor,
    temperature: float,
    truncation: Truncation = ALL,
) -> Tensor:
    """[B, T] float32 log softmax(logits / temperature) of the reply tokens, with gradient, 0 outside the mask.

    If the model supports it, replies to the same prompt share its computation (see `packing`).

    Args:
        model: a causal language model.
        prompts: B int64 vectors of any length, on the CPU.
        replies: [B, T] int64, on the CPU.
        mask: [B, T] bool, on the CPU.
        temperature: divides the logits.
        truncation: the filter used for sampling; the tokens of the replies are always kept.
    """
    if not can_pack(model):
        return plain_logprobs(model, prompts, replies, mask, temperature, truncation)
    packed = choose_layout(model, prompts, replies, mask)
    there = packed.mask
    states = states_at(model, packed, packed.rows[there], packed.columns[there])
    device = states.device
    found = _of_states(model, states, sent(packed.replies[there], device), temperature, truncation)
    places = tuple(sent(x, device) for x in there.nonzero(as_tuple=True))
    return torch.zeros(there.shape, device=device).index_put(places, found)[sent(packed.owner, device)]


def plain_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Tensor],
    replies: Tensor,
    mask: Tensor,
    temperature: float,
    truncation: Truncation = ALL,
) -> Tensor:
    """As `reply_logprobs`, with one row per reply. Padding is on the right, so causal attention needs no mask."""
    device = model.device
    ids, starts = right_padded(prompts, replies, mask)
    there = mask.nonzero(as_tuple=True)
    before = starts[there[0]] + there[1] - 1  # the column whose state predicts the token
    rows, columns, before, targets = (sent(x, device) for x in (*there, before, replies[there]))
    hidden = body_of(model)(input_ids=sent(ids, device), use_cache=False).last_hidden_state
    found = _of_states(model, hidden[rows, before], targets, temperature, truncation)
    return torch.zeros(mask.shape, device=device).index_put((rows, columns), found)


def _of_states(
    model: PreTrainedModel, states: Tensor, targets: Tensor, temperature: float, truncation: Truncation
) -> Tensor:
    """[M] log-probabilities of the targets [M] from hidden states [M, H], with the head applied in chunks."""
    head = model.get_output_embeddings()
    if is_plain(head, torch.nn.Linear) and head.bias is None and truncation.keeps_all:
        return head_logprobs(states, head.weight, targets, temperature)
    size = max(1, sizes_of(states.device).logits // head.weight.shape[0])
    parts = []
    for part, target in zip(torch.split(states, size), torch.split(targets, size), strict=True):
        if len(targets) > size and torch.is_grad_enabled():
            parts.append(checkpoint(_chosen, head, part, target, temperature, truncation, use_reentrant=False))
        else:
            parts.append(_chosen(head, part, target, temperature, truncation))
    return torch.cat(parts)


def head_logprobs(states: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """[M] float32 log softmax(states weight^T / temperature) of the targets, with gradient; see `_Head`.

    Args:
        states: [M, H].
        weight: [V, H].
        targets: [M] int64.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        found: Tensor = _Head.apply(states, weight, targets, temperature, dtype)  # type: ignore[no-untyped-call]
    return found


class _Head(torch.autograd.Function):
    """Computes logits one vocabulary chunk at a time and recomputes them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype
    ) -> Tensor:
        rows = states.to(dtype)
        found = torch.empty(len(states), dtype=torch.float32, device=states.device)
        sums = torch.full_like(found, -torch.inf)
        for part in _parts(states, len(weight)):
            logits = torch.mm(rows, weight[part].to(dtype).t()).float().div_(temperature)
            inside = (targets >= part.start) & (targets < part.stop)
            there = (targets - part.start).clamp(0, part.stop - part.start - 1)
            found = torch.where(inside, logits.gather(-1, there[:, None])[:, 0], found)
            most = logits.amax(-1)
            sums = torch.logaddexp(sums, most + logits.sub_(most[:, None]).exp_().sum(-1).log_())
        ctx.save_for_backward(states, weight, targets, sums)
        ctx.temperature, ctx.dtype = temperature, dtype
        return found - sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, targets, sums = ctx.saved_tensors
        rows, pull = states.to(ctx.dtype), slopes[0] / ctx.temperature
        by_states = torch.zeros_like(states, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        by_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for part in _parts(states, len(weight)):
            used = weight[part].to(ctx.dtype)
            logits = torch.mm(rows, used.t()).float().div_(ctx.temperature)
            by_logits = logits.sub_(sums[:, None]).exp_().mul_(-pull[:, None])  # pull x (one-hot target - softmax)
            inside = (targets >= part.start) & (targets < part.stop)
            there = (targets - part.start).clamp(0, part.stop - part.start - 1)
            by_logits.scatter_add_(1, there[:, None], torch.where(inside, pull, 0.0)[:, None])
            by_logits = by_logits.to(ctx.dtype)
            if by_states is not None:
                by_states += torch.mm(by_logits, used)
            if by_weight is not None:
                by_weight[part] = torch.mm(by_logits.t(), rows)
        return None if by_states is None else by_states.to(states.dtype), by_weight, None, None, None


def _parts(states: Tensor, vocabulary: int) -> list[slice]:
    size = max(LEAST, sizes_of(states.device).logits // max(1, len(states)))
    return [slice(start, min(start + size, vocabulary)) for start in range(0, vocabulary, size)]


def choice_logprobs(model: PreTrainedModel, menus: Sequence[Menu], temperature: float, rows: int) -> list[Tensor]:
    """For each menu, [K] float32 log-probabilities of its K choices, with gradient, normalised over the choices.

    A choice's likelihood is the product of its token probabilities given the prompt. A choice is one action, so the
    temperature divides the log-likelihood of the whole choice; per-token tempering would penalise longer choices.

    Args:
        model: a causal language model.
        menus: (prompt, choices) pairs of token ids; duplicates are computed once.
        temperature: divides the log-likelihoods.
        rows: sequences per forward pass.
    """
    distinct = list(dict.fromkeys(menus))
    flat = [(torch.tensor(prompt), choice) for prompt, choices in distinct for choice in choices]
    likelihoods = []
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        replies = torch.zeros(len(part), max(len(choice) for _, choice in part), dtype=torch.int64)
        lengths = torch.tensor([len(choice) for _, choice in part])
        for row, (_, choice) in enumerate(part):
            replies[row, : len(choice)] = torch.tensor(choice)
        mask = torch.arange(replies.shape[1])[None] < lengths[:, None]
        likelihoods.append(reply_logprobs(model, [p for p, _ in part], replies, mask, 1.0).sum(-1))
    sizes = [len(choices) for _, choices in distinct]
    shared = [torch.log_softmax(x / temperature, 0) for x in torch.split(torch.cat(likelihoods), sizes)]
    where = {menu: i for i, menu in enumerate(distinct)}
    return [shared[where[menu]] for menu in menus]


def _chosen(
    head: torch.nn.Module, states: Tensor, target: Tensor, temperature: float, truncation: Truncation
) -> Tensor:
    """[M] log-probability of the target tokens, from [M, H] hidden states."""
    logits: Tensor = truncation(head(states).float() / temperature, target)
    return logits.gather(-1, target[:, None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)


@torch.no_grad()
def next_logprobs(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], rows: int) -> Tensor:
    """[N, V] float32 log-probabilities of the next token after each prompt, in batches of `rows` prompts."""
    head = model.get_output_embeddings()
    states = last_states(model, prompts, rows)
    return torch.cat([torch.log_softmax(head(part).float(), dim=-1) for part in torch.split(states, rows)])
