"""Last-token hidden states of many texts, as judges and reward models need them; common prefixes are computed once."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.devices import sent
from selfplay.engines.llama.layers import can_pack, choose_layout, states_at
from selfplay.models.structure import body_of

Text = tuple[int, ...]
DEEP = 64  # maximum nesting depth of shared prefixes
WORTH = 0.8  # share prefixes only if at most this fraction of the tokens remains to compute


@torch.no_grad()
def last_states(model: PreTrainedModel, texts: Sequence[Text], rows: int) -> Tensor:
    """[N, H] the last hidden state of each text's last token.

    If the model supports it and enough tokens are saved, a common prefix is computed once (see
    `selfplay.engines.packing`).

    Args:
        texts: N sequences of token ids.
        rows: texts per forward pass.
    """
    packs = can_pack(model) and shares_enough(texts)
    order = sorted(range(len(texts)), key=texts.__getitem__ if packs else lambda i: len(texts[i]))
    parts = []
    for start in range(0, len(order), rows):
        some = [texts[i] for i in order[start : start + rows]]
        parts.append((_packed if packs else _plain)(model, some))
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[sent(back, model.device)]


def _plain(model: PreTrainedModel, texts: Sequence[Text]) -> Tensor:
    """One row per text. Padding is on the right, so causal attention needs no mask."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    states: Tensor = body_of(model)(input_ids=sent(ids, model.device), use_cache=False).last_hidden_state
    return states[torch.arange(len(texts), device=model.device), sent(lengths - 1, model.device)]


def _packed(model: PreTrainedModel, texts: Sequence[Text]) -> Tensor:
    shared = beginnings(texts)
    rests = [text[n:] for text, n in zip(texts, shared, strict=True)]
    lengths = torch.tensor([len(rest) for rest in rests])
    replies = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, rest in enumerate(rests):
        replies[row, : len(rest)] = torch.tensor(rest)
    mask = torch.arange(replies.shape[1]) < lengths[:, None]
    prompts = [torch.tensor(text[:n], dtype=torch.int64) for text, n in zip(texts, shared, strict=True)]
    packed = choose_layout(model, prompts, replies, mask)
    ends = packed.mask.sum(1, keepdim=True) - 1
    columns = packed.columns.gather(1, ends)[:, 0] + 1  # one past the column that predicts the last token
    return states_at(model, packed, packed.rows[:, 0], columns)[sent(packed.owner, model.device)]


def shares_enough(texts: Sequence[Text]) -> bool:
    """Whether shared prefixes save enough tokens to pay for longer rows and an explicit attention mask."""
    distinct = sorted(set(texts))
    return min(map(len, distinct)) > 1 and _tree(distinct)[0] <= WORTH * sum(map(len, distinct))


def beginnings(texts: Sequence[Text]) -> list[int]:
    """The length of each text's shared prefix, for texts in sorted order.

    Neighbours share a prefix where that reduces the number of tokens to compute. Each text keeps at least two tokens of
    its own.
    """
    return _tree(texts)[1]


def _tree(texts: Sequence[Text]) -> tuple[int, list[int]]:
    """The number of tokens to compute for texts in sorted order, and their prefix lengths (see `beginnings`)."""
    common = [0, *(_common(one, other) for one, other in pairwise(texts))]
    return _split(texts, common, 0, len(texts), 0)


def _split(texts: Sequence[Text], common: Sequence[int], first: int, last: int, depth: int) -> tuple[int, list[int]]:
    """For texts[first:last], the number of tokens to compute and the length of each text's shared prefix.

    Either all texts share one prefix, or they are split between the neighbours with the shortest common prefix.
    """
    lengths = [len(text) for text in texts[first:last]]
    least = min(common[first + 1 : last], default=lengths[0])
    shared = max(0, min(least, min(lengths) - 2))
    together = shared + sum(lengths) - shared * len(lengths)
    if len(lengths) == 1 or depth == DEEP:
        return together, [shared] * len(lengths)
    cuts = [first, *(i for i in range(first + 1, last) if common[i] == least), last]
    parts = [_split(texts, common, one, other, depth + 1) for one, other in pairwise(cuts)]
    apart = sum(tokens for tokens, _ in parts)
    if together <= apart:
        return together, [shared] * len(lengths)
    return apart, [n for _, some in parts for n in some]


def _common(one: Text, other: Text) -> int:
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
