"""Run a module in a higher precision than that of its weights, without a second copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleList


@contextmanager
def finer(module: Module, dtype: torch.dtype) -> Iterator[None]:
    """Run a module in another precision, converting the weights of each block only while it executes.

    This holds for calls of a block and for computations on it through `selfplay.models.structure.through`. The weights
    are restored bit for bit. FlashAttention, which does not support it, is replaced by PyTorch's SDPA.
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
            stack.enter_context(_computed_through(block, parameters, convert, restore))
        if kernel == "flash_attention_2":
            config._attn_implementation = "sdpa"
        try:
            yield
        finally:
            restore(list(kept))
            if kernel == "flash_attention_2":
                config._attn_implementation = kernel


@contextmanager
def _computed_through(
    block: Module, parameters: list[Any], convert: Callable[[list[Any]], None], restore: Callable[[list[Any]], None]
) -> Iterator[None]:
    """Convert the parameters of a block for computations through it, too."""
    known = vars(block).get("through")

    def converted(do: Callable[..., Any], *args: Any) -> Any:
        convert(parameters)
        try:
            return do(block, *args) if known is None else known(do, *args)
        finally:
            restore(parameters)

    vars(block)["through"] = converted
    try:
        yield
    finally:
        del vars(block)["through"]
        if known is not None:
            vars(block)["through"] = known


def _blocks(module: Module) -> list[tuple[Module, list[Any]]]:
    """The submodules that run one after another, each with its parameters, and the modules around them with the rest.

    The members of a ModuleList, such as a decoder's layers, are the smallest blocks.
    """
    found = [(module, list(module.parameters(recurse=False)))]
    for child in module.children():
        for part in child if isinstance(child, ModuleList) else [child]:
            inside = not isinstance(child, ModuleList) and any(isinstance(m, ModuleList) for m in child.modules())
            found += _blocks(part) if inside else [(part, list(part.parameters()))]
    return found
