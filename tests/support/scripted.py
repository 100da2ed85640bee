"""Players and referees with scripted answers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Ask, Player, Policy, Referee, Reply, Turn


class Script(Player):
    """Says what a function of the ask says; keeps what it was asked, call by call."""

    def __init__(self, say: Callable[[Ask], Reply]) -> None:
        self.say = say
        self.calls: list[list[Ask]] = []

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        self.calls.append(list(asks))
        return [self.say(ask) for ask in asks]


class Fixed(Referee):
    """Gives the numbers that it was given."""

    def __init__(self, scores: Sequence[float] | Tensor, roles: tuple[str, ...] = ()) -> None:
        self.scores, self.roles = torch.as_tensor(scores), roles
        self.seen: list[Turn] = []

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        self.seen = list(turns)
        return self.scores
