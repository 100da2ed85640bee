"""Packed rows under a tree-shaped attention mask, by transformers' modules, and the trial of any implementation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from inspect import signature
from sys import modules

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from selfplay.devices import sent
from selfplay.engines.packing import Packed, PackingPlanner, Plan, tree_size
from selfplay.models.finer import finer
from selfplay.models.structure import body_of
from selfplay.models.trial import alike, as_accurate, is_half, passes

# Row lengths of the trial: longer than the local windows of older architectures; short enough for `_EagerAttention`.
PROBES = (320, 90)


def obeys_masks(model: PreTrainedModel) -> bool:
    """Whether the model supports custom masks and positions, by its modules and by a trial of a few hundred tokens."""
    return full_attention(model) and _takes_masks(model) and passes(model, "packed", lambda m: trial(m, under_mask))


def _takes_masks(model: PreTrainedModel) -> bool:
    """Whether the model accepts a mask [R, 1, L, L] and position ids.

    Models that use `transformers.masking_utils.create_causal_mask` pass a mask of that shape through. Others accept
    only [R, L] masks (BLOOM, MPT), or always number positions along the row.
    """
    body = body_of(model)
    given = signature(body.forward).parameters
    makes_masks = hasattr(modules[type(body).__module__], "create_causal_mask")
    kernel = model.config.get_text_config()._attn_implementation
    return makes_masks and {"attention_mask", "position_ids"} <= set(given) and kernel in ("sdpa", "eager")


def under_mask(model: PreTrainedModel, packed: Packed, rows: Tensor, columns: Tensor) -> Tensor:
    """[M, H] last hidden states at (rows, columns), computed by transformers' modules under a tree-shaped mask."""
    packed = packed.on(model.device)
    states: Tensor = body_of(model)(
        input_ids=packed.ids,
        attention_mask=packed.attention(model.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    return states[sent(rows, model.device), sent(columns, model.device)]


def trial(model: PreTrainedModel, states_at: Callable[..., Tensor], branched: bool = False) -> bool:
    """Whether packed replies have the same hidden states as unpacked ones, for long and short rows.

    Args:
        states_at: (model, packed, rows, columns) -> [M, H].
        branched: whether each prompt has its own row.
    """
    return all(_is_alone(model, states_at, length, branched) for length in PROBES)


def _is_alone(model: PreTrainedModel, states_at: Callable[..., Tensor], most: int, branched: bool) -> bool:
    """Test two replies to one prompt and one reply to a shorter prompt, in the same row unless `branched`."""
    config = model.config.get_text_config()
    length = min(most, getattr(config, "max_position_embeddings", None) or most)
    ids = torch.arange(1, length + 1) % config.vocab_size
    prompt, short = ids[: length // 2], ids[3 : 3 + length // 5]
    prompts, texts = [prompt, prompt, short], [ids[length // 2 : -9], ids[-9:], ids[-16:-9]]
    replies = pad_sequence(texts, batch_first=True)
    mask = torch.arange(replies.shape[1]) < torch.tensor(list(map(len, texts)))[:, None]
    planner = PackingPlanner(prompts, replies, mask)
    plan = planner.apart()
    if not branched:
        trees = [tree for row in plan.rows for tree in row]
        plan = Plan([trees], sum(map(tree_size, trees)), branched=False)
    packed = planner.packed(plan)
    there, sizes, body = packed.mask, list(map(len, texts)), body_of(model)

    def together() -> tuple[Tensor, ...]:
        states: Tensor = states_at(model, packed, packed.rows[there], packed.columns[there])
        parts: tuple[Tensor, ...] = states.split(sizes)
        return parts

    def alone() -> list[Tensor]:
        rows = [torch.cat([p, r]) for p, r in zip(prompts, texts, strict=True)]
        plain = [body(input_ids=row[None].to(model.device), use_cache=False).last_hidden_state[0] for row in rows]
        return [x[len(p) - 1 : len(p) + n - 1] for x, p, n in zip(plain, prompts, sizes, strict=True)]

    with finer(body, torch.float32) if is_half(model) else nullcontext():
        found, exact = together(), alone()
    right = all(alike(a, b, torch.promote_types(model.dtype, torch.float32)) for a, b in zip(found, exact, strict=True))
    return right and (not is_half(model) or all(map(as_accurate, together(), alone(), exact)))


def full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all earlier tokens, according to the config."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and window is None
