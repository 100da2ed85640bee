"""Embeddings of texts: the mean of a language model's last hidden states."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.devices import sent
from selfplay.engines.llama.layers import can_pack
from selfplay.models.structure import body_of
from selfplay.out_of_memory import Rows

Text = tuple[int, ...]


@torch.no_grad()
def mean_states(model: PreTrainedModel, texts: Sequence[Text], rows: Rows) -> Tensor:
    """[N, H] float32 the mean over its tokens of each text's last hidden states, on the CPU.

    Texts are padded on the right where the model's attention is known to be causal; other models read texts of equal
    length together.

    Args:
        texts: N sequences of token ids, each with at least one.
        rows: texts per forward pass; halved when memory runs out.
    """
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    groups = [order] if can_pack(model) else [list(some) for _, some in groupby(order, key=lambda i: len(texts[i]))]

    def read(most: int) -> list[Tensor]:
        parts = [some[start : start + most] for some in groups for start in range(0, len(some), most)]
        return [_means(model, [texts[i] for i in part]) for part in parts]

    found = torch.cat(rows.halving(read, len(texts))) if texts else torch.zeros(0, 0)
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    return found[back]


def _means(model: PreTrainedModel, texts: Sequence[Text]) -> Tensor:
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    states: Tensor = body_of(model)(input_ids=sent(ids, model.device), use_cache=False).last_hidden_state
    mask = sent(torch.arange(ids.shape[1])[None] < lengths[:, None], model.device)
    means = (states.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return means.cpu()
