"""The turns of a batch as transitions: a state, an option, a reward and the state that follows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfplay.core import Batch, SelfplayError
from selfplay.records import ELSEWHERE, ENDS


@dataclass(frozen=True)
class Transitions:
    """The U distinct transitions of a batch of B turns, and the S states that follow them.

    Attributes:
        turns: U turns, the first of each transition; their weights are the sums over equal transitions.
        rewards: [U] what is paid between the turn and the next one of its role.
        states: S turns that stand for the states; only their prompts and choices are meaningful.
        places: [U] the state that follows, as an index into `states`; -1 at the end of an episode.
        rows: [B] the transition of each turn of the batch.
    """

    turns: Batch
    rewards: Tensor
    states: Batch
    places: Tensor
    rows: Tensor


def transitions(batch: Batch) -> Transitions:
    """The transitions of a batch.

    The payoff of a turn is the return from there on, so what is paid before the role's next turn is the difference of
    the two payoffs: 0 before the last turn where the game pays each turn the return of the episode.

    Raises:
        SelfplayError: a turn's next one is unknown or not in the batch, or a reply is not one of several options.
    """
    follows = _follows(batch)
    _check_options(batch)
    known = [*zip(batch.roles, (tuple(prompt.tolist()) for prompt in batch.prompts), batch.choices, strict=True)]
    rewards = batch.payoffs - torch.where(follows >= 0, batch.payoffs[follows.clamp(min=0)], 0.0)
    next_rows = follows.tolist()
    states, numbers = _distinct([known[row] for row in next_rows if row >= 0])
    remaining = iter(numbers)
    places = [next(remaining) if row >= 0 else ENDS for row in next_rows]
    facts = zip(known, batch.replies[:, 0].tolist(), rewards.tolist(), places, batch.on_policy.tolist(), strict=True)
    first, rows = _distinct([*facts])
    turns, of = batch.rows(torch.tensor(first)), torch.tensor(rows)
    turns = replace(turns, weights=torch.zeros(len(first)).index_add(0, of, batch.weights))
    following = follows[follows >= 0][torch.tensor(states, dtype=torch.int64)]
    return Transitions(turns, rewards[first], batch.rows(following), torch.tensor(places)[first], of)


def _distinct(items: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Where each distinct item comes first, and which of these each item is."""
    numbers: dict[Hashable, int] = {}
    which = [numbers.setdefault(item, len(numbers)) for item in items]
    first = dict(zip(reversed(which), range(len(items) - 1, -1, -1), strict=True))
    return [first[number] for number in range(len(numbers))], which


def _check_options(batch: Batch) -> None:
    longer = batch.mask[:, 1:].any(1)
    if bool(longer.any()):
        raise SelfplayError(
            f"a reply of the role '{batch.roles[int(longer.nonzero()[0])]}' is a text of several tokens, but values "
            "are learnt of options; choose a game whose asks have options"
        )


def _follows(batch: Batch) -> Tensor:
    if batch.follows is None:
        raise SelfplayError(
            "the order of the turns is unknown (Batch.follows is None), but values are learnt of turns in order; "
            "collate them with selfplay.rollout.collate, or begin a new buffer"
        )
    if bool((batch.follows == ELSEWHERE).any()):
        raise SelfplayError(
            "the next turn of a role is not in the batch, but values are learnt of whole episodes; select whole "
            "episodes, e.g. with update.groups=0"
        )
    return batch.follows
