"""The turns of a batch as transitions: a state, an option, a reward and the state that follows."""

from __future__ import annotations

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
    if batch.mask.shape[1] > 1 and bool(batch.mask[:, 1:].any()):
        role = batch.roles[int(batch.mask[:, 1:].any(1).nonzero()[0])]
        raise SelfplayError(
            f"a reply of the role '{role}' is a text of several tokens, but values are learnt of options; choose a "
            "game whose asks have options"
        )
    rewards = batch.payoffs - torch.where(follows >= 0, batch.payoffs[follows.clamp(min=0)], 0.0)
    states = [
        (role, tuple(prompt.tolist()), choices)
        for role, prompt, choices in zip(batch.roles, batch.prompts, batch.choices, strict=True)
    ]
    numbers: dict[object, int] = {}
    for row in sorted(set(follows[follows >= 0].tolist())):
        numbers.setdefault(states[row], row)
    order = {row: place for place, row in enumerate(numbers.values())}
    places = [order[numbers[states[row]]] if row >= 0 else ENDS for row in follows.tolist()]
    distinct: dict[object, int] = {}
    first: list[int] = []
    rows = []
    facts = zip(states, batch.replies[:, 0].tolist(), rewards.tolist(), places, batch.on_policy.tolist(), strict=True)
    for row, fact in enumerate(facts):
        number = distinct.setdefault(fact, len(distinct))
        if number == len(first):
            first.append(row)
        rows.append(number)
    of, index = torch.tensor(rows), torch.tensor(first)
    turns = batch.rows(index)
    turns = replace(turns, weights=torch.zeros(len(first)).index_add(0, of, batch.weights))
    return Transitions(
        turns, rewards[index], batch.rows(torch.tensor(list(order), dtype=torch.int64)), torch.tensor(places)[index], of
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
