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
    probe = Probe(model, most, branched)
    with finer(body_of(model), torch.float32) if is_half(model) else nullcontext():
        found, exact = probe.together(states_at), probe.alone()
    right = all(alike(a, b, torch.promote_types(model.dtype, torch.float32)) for a, b in zip(found, exact, strict=True))
    return right and (not is_half(model) or all(map(as_accurate, probe.together(states_at), probe.alone(), exact)))


def half_trial(model: PreTrainedModel, states_at: Callable[..., Tensor], plain: Callable[..., Tensor]) -> bool:
    """Whether an implementation for half precision alone is as accurate as the plain one in that precision.

    Both are compared with unpacked replies in float32. Over float32 weights, both compute in bfloat16.
    """
    for length in PROBES:
        probe, half = Probe(model, length, False), is_half(model)
        with finer(body_of(model), torch.float32) if half else nullcontext():
            exact = probe.alone()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=not half):
            ours, theirs = probe.together(states_at), probe.together(plain)
        if not all(map(as_accurate, ours, theirs, exact)):
            return False
    return True


class Probe:
    """Two replies to one prompt and one reply to a shorter prompt, in the same row unless `branched`."""

    def __init__(self, model: PreTrainedModel, most: int, branched: bool) -> None:
        self.model = model
        self.prompts, self.texts = _texts(model, most)
        self.packed = _packed(self.prompts, self.texts, branched)
        self.sizes = list(map(len, self.texts))

    def together(self, states_at: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        """The states that predict each reply, packed."""
        packed, there = self.packed, self.packed.mask
        states: Tensor = states_at(self.model, packed, packed.rows[there], packed.columns[there])
        parts: tuple[Tensor, ...] = states.split(self.sizes)
        return parts

    def alone(self) -> list[Tensor]:
        """The same by the model's modules, one row per reply."""
        body, device = body_of(self.model), self.model.device
        rows = [torch.cat([p, r]) for p, r in zip(self.prompts, self.texts, strict=True)]
        plain = [body(input_ids=row[None].to(device), use_cache=False).last_hidden_state[0] for row in rows]
        return [x[len(p) - 1 : len(p) + n - 1] for x, p, n in zip(plain, self.prompts, self.sizes, strict=True)]


def _texts(model: PreTrainedModel, most: int) -> tuple[list[Tensor], list[Tensor]]:
    config = model.config.get_text_config()
    length = min(most, getattr(config, "max_position_embeddings", None) or most)
    ids = torch.arange(1, length + 1) % config.vocab_size
    prompt, short = ids[: length // 2], ids[3 : 3 + length // 5]
    prompts, texts = [prompt, prompt, short], [ids[length // 2 : -9], ids[-9:], ids[-16:-9]]
    return prompts, texts


def _packed(prompts: list[Tensor], texts: list[Tensor], branched: bool) -> Packed:
    replies = pad_sequence(texts, batch_first=True)
    mask = torch.arange(replies.shape[1]) < torch.tensor(list(map(len, texts)))[:, None]
    planner = PackingPlanner(prompts, replies, mask)
    plan = planner.apart()
    if not branched:
        trees = [tree for row in plan.rows for tree in row]
        plan = Plan([trees], sum(map(tree_size, trees)), branched=False)
    return planner.packed(plan)


def full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all earlier tokens, according to the config."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and window is None
