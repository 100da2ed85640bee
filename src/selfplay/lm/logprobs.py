"""Log-probabilities of given replies: reply positions only, head and log-sum-exp in chunks, never [B, T, V]."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from selfplay.core import Batch
from selfplay.lm.sample import left_padded

CHUNK = 1 << 22  # logits in memory at once (entries), 16 MiB in float32


def right_padded(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompt and reply side by side, [B, L] int64 padded on the right with 0, and where each reply starts, [B]."""
    starts = torch.tensor([len(p) for p in batch.prompts])
    lengths = batch.mask.sum(1)
    ids = torch.zeros(len(batch), int((starts + lengths).max()), dtype=torch.int64)
    for row, prompt in enumerate(batch.prompts):
        start, length = len(prompt), int(lengths[row])
        ids[row, :start] = prompt
        ids[row, start : start + length] = batch.replies[row, :length]
    return ids.to(device), starts.to(device)


def reply_logprobs(model: PreTrainedModel, batch: Batch, temperature: float) -> Tensor:
    """[B, T] float32 log softmax(logits / temperature) of the batch's reply tokens, with gradient, 0 off the mask.

    Padding is on the right, after every token that is read, so causal attention needs no mask.
    """
    device = model.device
    ids, starts = right_padded(batch, device)
    mask, replies = batch.mask.to(device), batch.replies.to(device)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    rows, columns = mask.nonzero(as_tuple=True)
    states = hidden[rows, starts[rows] + columns - 1]  # the state that predicts the token at this column
    head = model.get_output_embeddings()
    targets = replies[rows, columns]
    size = max(1, CHUNK // head.weight.shape[0])
    parts = []
    for part, target in zip(torch.split(states, size), torch.split(targets, size), strict=True):
        if len(targets) > size and torch.is_grad_enabled():
            parts.append(checkpoint(_chosen, head, part, target, temperature, use_reentrant=False))
        else:
            parts.append(_chosen(head, part, target, temperature))
    return torch.zeros(mask.shape, device=device).index_put((rows, columns), torch.cat(parts))


def _chosen(head: torch.nn.Module, states: Tensor, target: Tensor, temperature: float) -> Tensor:
    """[M] log-probability of the target tokens, from [M, H] hidden states."""
    logits: Tensor = head(states).float() / temperature
    return logits.gather(-1, target[:, None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)


@torch.no_grad()
def next_logprobs(model: PreTrainedModel, prompts: Sequence[Sequence[int]], rows: int, pad: int) -> Tensor:
    """[N, V] float32 log-probabilities of the token after each prompt, `rows` prompts at a time."""
    parts = []
    for start in range(0, len(prompts), rows):
        ids, mask = left_padded(prompts[start : start + rows], pad, model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
        parts.append(torch.log_softmax(out.logits[:, -1].float(), dim=-1))
    return torch.cat(parts)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its output embedding times its last hidden state (no soft cap, no scale)."""
    ids = torch.arange(1, 5, device=model.device)[None] % model.get_output_embeddings().weight.shape[0]
    plain = model(input_ids=ids, use_cache=False).logits
    ours = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return torch.allclose(plain.float(), ours.float(), rtol=1e-3, atol=1e-3)
