"""Which turns of a batch are compared with one another."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Batch, SelfplayError
from selfplay.options import OneOf

COMPARE = ("group", "prompt")
ROUNDING = 2.0**-22  # relative to a group's largest payoff: four times the unit roundoff of float32
Compare = Annotated[str, OneOf(*COMPARE)]


def groups_of(batch: Batch, compare: str) -> Tensor:
    """[B] int64 group numbers; turns with the same number are compared.

    Args:
        batch: the turns.
        compare: "group": the groups set by the game; "prompt": all turns of a role with the same prompt.
    """
    return batch.groups if compare == "group" else same_prompts(batch, batch.roles)


def same_prompts(batch: Batch, roles: Sequence[str] = ()) -> Tensor:
    """[B] int64 group numbers: equal for equal prompts and, if `roles` (B names) are given, equal roles."""
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    seen = zip(roles or ("",) * len(batch), (tuple(prompt.tolist()) for prompt in batch.prompts), strict=True)
    return torch.tensor([numbers.setdefault(state, len(numbers)) for state in seen])


def check_compare(compare: str) -> None:
    """Raise SelfplayError unless `compare` is valid for `groups_of`."""
    if compare not in COMPARE:
        raise SelfplayError(f"update.compare is '{compare}'; choose one of {', '.join(COMPARE)}")
