"""Whether a policy can be made of a model: a causal one, whose logits are its head's, with nothing after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.models.structure import body_of
from selfplay.models.trial import alike

READ, SEEN = 8, 5  # tokens that are read, and of these the first ones, read alone
LOUD = (
    100.0  # logits are planted between minus this and this: a trained head's are as large, an untrained one's are not
)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
REMEDY = "choose a decoder-only chat model (Llama, Qwen, Mistral, SmolLM and the like)"


@torch.no_grad()
def check_architecture(model: PreTrainedModel, path: str) -> None:
    """Read a few tokens, and compare what policies compute with what the model says.

    Logits are planted behind the head and must come out as they are: a soft cap or a scale moves them, however small
    the head's own are.

    Raises:
        SelfplayError: the model cannot read a text; it has no head, or one that reads something else than the decoder's
            last hidden states; it scales or caps its logits; a token sees those that come after it.
    """
    kind = f"the architecture {type(model).__name__} of '{path}'"
    head: Any = model.get_output_embeddings()
    if head is None:
        raise SelfplayError(f"{kind} has no output layer that could be read; {REMEDY}")
    ids = torch.arange(1, READ + 1, device=model.device)[None] % head.weight.shape[0]
    read, planted, logits = _planted(model, head, ids, kind)
    body = body_of(model)
    both = [_reading(kind, body, ids[:, :n]) for n in (READ, SEEN)]
    whole, first = (getattr(out, "last_hidden_state", None) for out in both)
    if whole is None or first is None:
        raise SelfplayError(f"{kind} has a decoder, {type(body).__name__}, without last hidden states; {REMEDY}")
    if read is None or read.shape != whole.shape or not alike(whole, read, whole.dtype):
        raise SelfplayError(f"{kind} does not compute its logits from its decoder's last hidden states; {REMEDY}")
    if logits.shape != planted.shape or not torch.equal(logits.float(), planted.float()):
        raise SelfplayError(
            f"{kind} scales or caps its logits after the head, which this policy would not see; {REMEDY}"
        )
    if not alike(whole[:, :SEEN], first, whole.dtype):
        raise SelfplayError(f"{kind} lets a token see what comes after it, so it cannot write token by token; {REMEDY}")
    _check_gradient(model, ids, kind)


@torch.enable_grad()
def _check_gradient(model: PreTrainedModel, ids: Tensor, kind: str) -> None:
    """Raise SelfplayError where no gradient comes from the logits down to what the first layer reads.

    Of what the embedding gives out alone, which needs no memory for the gradients of parameters.
    """
    given: list[Tensor] = []

    def leaf(module: Any, tokens: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given.append(output.detach().requires_grad_())
        return given[-1].clone()  # some change it in place

    handle = model.get_input_embeddings().register_forward_hook(leaf)
    try:
        logits = _reading(kind, model, ids).logits
        if given:  # else the model reads its embedding's weight by itself
            torch.autograd.grad(logits.float().sum(), given[:1])
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{kind} gives no gradient in eval mode ({reason}); {REMEDY}") from error
    finally:
        handle.remove()


def _planted(model: PreTrainedModel, head: Any, ids: Tensor, kind: str) -> tuple[Tensor | None, Tensor, Tensor]:
    """What the head read, what was planted behind it, and the model's logits."""
    read: list[Tensor] = []
    planted = [torch.zeros(0)]

    def plant(module: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        places = torch.arange(output.numel(), device=output.device)
        shares = (places * 7919 % 997).float() / 997
        read.append(given[0])
        planted[0] = (LOUD * (2 * shares - 1)).view(output.shape).to(output.dtype)
        return planted[0]

    handle = head.register_forward_hook(plant)
    try:
        logits = _reading(kind, model, ids).logits
    finally:
        handle.remove()
    return (read[0] if len(read) == 1 else None), planted[0], logits


def _reading(kind: str, module: Any, ids: Tensor) -> Any:
    try:
        return module(input_ids=ids, use_cache=False)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise SelfplayError(f"{kind} cannot read a text of {ids.shape[1]} tokens ({reason}); {REMEDY}") from error
