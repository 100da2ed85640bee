"""Log-probabilities of given replies: reply positions only, head and log-sum-exp in chunks, never [B, T, V]."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from selfplay.lm.endings import last_states
from selfplay.lm.packing import can_pack, pack

Menu = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]  # a prompt and what may be said after it, as token ids
CHUNK = 1 << 22  # logits in memory at once (entries), 16 MiB in float32


def right_padded(prompts: Sequence[Tensor], replies: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt and reply side by side, [B, L] int64 padded on the right with 0, and where each reply starts, [B]."""
    starts = torch.tensor([len(p) for p in prompts])
    lengths = mask.sum(1)
    ids = torch.zeros(len(prompts), int((starts + lengths).max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        start, length = len(prompt), int(lengths[row])
        ids[row, :start] = prompt
        ids[row, start : start + length] = replies[row, :length]
    return ids, starts


def reply_logprobs(
    model: PreTrainedModel, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """[B, T] float32 log softmax(logits / temperature) of the reply tokens, with gradient, 0 off the mask.

    Args:
        prompts: B ragged int64 vectors.
        replies: [B, T] int64.
        mask: [B, T] bool.

    Where the model takes it, replies to one prompt share its reading (see `packing`).
    """
    if not can_pack(model):
        return plain_logprobs(model, prompts, replies, mask, temperature)
    packed = pack(prompts, replies, mask).to(model.device)
    hidden = model.get_decoder()(
        input_ids=packed.ids,
        attention_mask=packed.attention(model.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    there = packed.mask
    found = _of_states(model, hidden[packed.rows[there], packed.columns[there]], packed.replies[there], temperature)
    distinct = torch.zeros(there.shape, device=found.device).index_put(there.nonzero(as_tuple=True), found)
    return distinct[packed.owner]


def plain_logprobs(
    model: PreTrainedModel, prompts: Sequence[Tensor], replies: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """The same, one row a reply. Padding is on the right, after all that is read, so causal attention needs no mask."""
    device = model.device
    ids, starts = (x.to(device) for x in right_padded(prompts, replies, mask))
    mask, replies = mask.to(device), replies.to(device)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    rows, columns = mask.nonzero(as_tuple=True)
    states = hidden[rows, starts[rows] + columns - 1]  # the state that predicts the token at this column
    found = _of_states(model, states, replies[rows, columns], temperature)
    return torch.zeros(mask.shape, device=device).index_put((rows, columns), found)


def _of_states(model: PreTrainedModel, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """[M] log-probabilities of the targets [M], from hidden states [M, H]; the head in chunks."""
    head = model.get_output_embeddings()
    size = max(1, CHUNK // head.weight.shape[0])
    parts = []
    for part, target in zip(torch.split(states, size), torch.split(targets, size), strict=True):
        if len(targets) > size and torch.is_grad_enabled():
            parts.append(checkpoint(_chosen, head, part, target, temperature, use_reentrant=False))
        else:
            parts.append(_chosen(head, part, target, temperature))
    return torch.cat(parts)


def choice_logprobs(model: PreTrainedModel, menus: Sequence[Menu], temperature: float, rows: int) -> list[Tensor]:
    """For each menu [K] float32 log-probabilities of its K choices, with gradient; they add up to 1.

    A choice's likelihood is the product of its tokens' probabilities after the prompt. A choice is one action, so the
    temperature divides whole log-likelihoods: tempered token by token, a longer choice would lose by its length.
    Nothing else than a choice can be said, however unlikely they all are.

    Args:
        menus: (prompt, choices) each, as token ids; a menu that is there twice is computed once.
        rows: sequences in one forward pass.
    """
    distinct = list(dict.fromkeys(menus))
    flat = [(torch.tensor(prompt), choice) for prompt, choices in distinct for choice in choices]
    wholes = []
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        replies = torch.zeros(len(part), max(len(choice) for _, choice in part), dtype=torch.int64)
        lengths = torch.tensor([len(choice) for _, choice in part])
        for row, (_, choice) in enumerate(part):
            replies[row, : len(choice)] = torch.tensor(choice)
        mask = torch.arange(replies.shape[1])[None] < lengths[:, None]
        wholes.append(reply_logprobs(model, [p for p, _ in part], replies, mask, 1.0).sum(-1))
    sizes = [len(choices) for _, choices in distinct]
    shared = [torch.log_softmax(x / temperature, 0) for x in torch.split(torch.cat(wholes), sizes)]
    where = {menu: i for i, menu in enumerate(distinct)}
    return [shared[where[menu]] for menu in menus]


def _chosen(head: torch.nn.Module, states: Tensor, target: Tensor, temperature: float) -> Tensor:
    """[M] log-probability of the target tokens, from [M, H] hidden states."""
    logits: Tensor = head(states).float() / temperature
    return logits.gather(-1, target[:, None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)


@torch.no_grad()
def next_logprobs(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], rows: int, pad: int) -> Tensor:
    """[N, V] float32 log-probabilities of the token after each prompt, `rows` prompts at a time."""
    head = model.get_output_embeddings()
    states = last_states(model, prompts, rows, pad)
    return torch.cat([torch.log_softmax(head(part).float(), dim=-1) for part in torch.split(states, rows)])


@torch.no_grad()
def check_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its output embedding times its last hidden state (no soft cap, no scale)."""
    ids = torch.arange(1, 5, device=model.device)[None] % model.get_output_embeddings().weight.shape[0]
    plain = model(input_ids=ids, use_cache=False).logits
    ours = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return torch.allclose(plain.float(), ours.float(), rtol=1e-3, atol=1e-3)
