"""Players and a referee without a model: random texts, invalid replies, replays, random scores."""

import re
from collections.abc import Mapping, Sequence
from random import Random

import torch
from torch import Tensor

from selfplay.core import Ask, Episode, Player, Policy, Referee, Reply, Turn

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789?"
UNASKED = ("", " \n", "no option", "{0} {} {word} %s \\1", "é\u2028漢\x00", "9" * 5000)  # invalid replies


class Babbler(Player):
    """Replies with a random option, or a short random text if there are none; a function of the ask's key."""

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [self._one(ask, Random(ask.key)) for ask in asks]

    def _one(self, ask: Ask, rng: Random) -> Reply:
        moves = ask.options or re.findall(r"\[[\w ]+\]", ask.prompt)  # TextArena's prompts list moves in brackets
        text = rng.choice(moves) if moves else babble(rng)
        return Reply(text, (1, 2), tuple(rng.randrange(9) for _ in range(rng.randint(1, 4))))


class Unasked(Player):
    """Replies as another player or, half of the time, with an invalid text; a function of the ask's key."""

    def __init__(self, player: Player) -> None:
        self.player = player

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        replies = self.player.act(asks)
        return [self._one(Random(f"{ask.key}/unasked"), reply) for ask, reply in zip(asks, replies, strict=True)]

    def _one(self, rng: Random, reply: Reply) -> Reply:
        return Reply(rng.choice(UNASKED)) if rng.random() < 0.5 else reply


class Parrot(Player):
    """Repeats the replies of earlier episodes, by the ask's key."""

    def __init__(self, episodes: Sequence[Episode]) -> None:
        self.replies = {turn.ask.key: turn.reply for episode in episodes for turn in episode.turns}

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [self.replies.get(ask.key, Reply("")) for ask in asks]


class Dice(Referee):
    """Scores with random numbers from 0 to `top`, a function of the ask's key."""

    def __init__(self, top: float) -> None:
        self.top = top

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        """[N] float32."""
        return torch.tensor([self.top * Random(f"{self.top}/{turn.ask.key}").random() for turn in turns])


def babble(rng: Random) -> str:
    """A random text of up to six characters."""
    return "".join(rng.choices(LETTERS, k=rng.randint(0, 6)))
