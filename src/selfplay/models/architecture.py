"""Checks that a model can be a policy: it is causal, and its logits are the unmodified output of its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.devices import exact_float32
from selfplay.models.finer import finer
from selfplay.models.structure import body_of
from selfplay.models.trial import alike, is_half
from selfplay.out_of_memory import is_out_of_memory

READ, SEEN = 8, 5  # tokens of the test input and of its prefix, for the causality check
LOUD = 100.0  # injected logits lie within +-LOUD, as large as a trained head's
REMEDY = "choose a decoder-only chat model (Llama, Qwen, Mistral, SmolLM and the like)"


@torch.no_grad()
def check_architecture(model: PreTrainedModel, path: str) -> None:
    """Run a few tokens through the model and check the assumptions of policies.

    The head's output is replaced by large injected logits, which must come out unchanged: a soft cap or a scale would
    alter them, even if an untrained head's own logits are too small to show it.

    Args:
        model: a causal language model.
        path: its path, for messages.

    Raises:
        SelfplayError: the model cannot process a text; it has no head, or the head's input is not the decoder's last
            hidden state; it scales or caps its logits; a token attends to later ones; or it has no gradient.
    """
    kind = f"the architecture {type(model).__name__} of '{path}'"
    head: Any = model.get_output_embeddings()
    if head is None:
        raise SelfplayError(f"{kind} has no output layer; {REMEDY}")
    ids = torch.arange(1, READ + 1, device=model.device)[None] % head.weight.shape[0]
    read, injected, logits = _injected(model, head, ids, kind)
    body = body_of(model)
    both = [_reading(kind, body, ids[:, :n]) for n in (READ, SEEN)]
    whole, first = (getattr(out, "last_hidden_state", None) for out in both)
    if whole is None or first is None:
        raise SelfplayError(f"{kind} has a decoder, {type(body).__name__}, without last hidden states; {REMEDY}")
    if read is None or read.shape != whole.shape or not alike(whole, read, whole.dtype):
        raise SelfplayError(f"{kind} does not compute its logits from its decoder's last hidden states; {REMEDY}")
    if logits.shape != injected.shape or not torch.equal(logits.float(), injected.float()):
        raise SelfplayError(
            f"{kind} scales or caps its logits after the head, which this policy would ignore; {REMEDY}"
        )
    if not alike(whole[:, :SEEN], first, whole.dtype) and not (is_half(model) and _is_causal(body, ids, kind)):
        raise SelfplayError(f"{kind} lets a token attend to later ones, so it cannot generate token by token; {REMEDY}")
    _check_gradient(model, ids, kind)


def _is_causal(body: Any, ids: Tensor, kind: str) -> bool:
    """Whether a prefix has the same states alone, in float32: in bfloat16 SmolLM2's differ by a third through rounding,
    since kernels depend on the length of a text."""
    with exact_float32(), finer(body, torch.float32):
        whole, first = (_reading(kind, body, ids[:, :n]).last_hidden_state for n in (READ, SEEN))
    return alike(whole[:, :SEEN], first, torch.float32)


@torch.enable_grad()
def _check_gradient(model: PreTrainedModel, ids: Tensor, kind: str) -> None:
    """Raise SelfplayError if no gradient flows from the logits back to the input of the first layer.

    Only the gradient of the embedding's output is computed, which needs no memory for parameter gradients.
    """
    given: list[Tensor] = []

    def leaf(module: Any, tokens: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given.append(output.detach().requires_grad_())
        return given[-1].clone()  # some models modify it in place

    handle = model.get_input_embeddings().register_forward_hook(leaf)
    try:
        logits = _reading(kind, model, ids).logits
        if given:  # else the model does not call its embedding module
            torch.autograd.grad(logits.float().sum(), given[:1])
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{kind} gives no gradient in eval mode ({reason}); {REMEDY}") from error
    finally:
        handle.remove()


def _injected(model: PreTrainedModel, head: Any, ids: Tensor, kind: str) -> tuple[Tensor | None, Tensor, Tensor]:
    """The head's input, the logits injected as its output, and the model's final logits."""
    read: list[Tensor] = []
    injected = [torch.zeros(0)]

    def inject(module: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        places = torch.arange(output.numel(), device=output.device)
        shares = (places * 7919 % 997).float() / 997
        read.append(given[0])
        injected[0] = (LOUD * (2 * shares - 1)).view(output.shape).to(output.dtype)
        return injected[0]

    handle = head.register_forward_hook(inject)
    try:
        logits = _reading(kind, model, ids).logits
    finally:
        handle.remove()
    return (read[0] if len(read) == 1 else None), injected[0], logits


def _reading(kind: str, module: Any, ids: Tensor) -> Any:
    try:
        return module(input_ids=ids, use_cache=False)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{kind} cannot process a text of {ids.shape[1]} tokens ({reason}); {REMEDY}") from error
