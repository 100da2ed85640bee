"""The exact truth of the tiny world."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, Turn
from selfplay.world import parse


class Verifier(Referee):
    """1 for the right answer to a question of the tiny world, else 0.

    No answer to something that is no question of this world can be right, so there it is 0 too; `Invalid` tells the
    two apart.
    """

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(_right(turn.ask.prompt, turn.reply.text)) for turn in turns])


class Invalid(Referee):
    """1 for a Challenger's turn that is no question of the tiny world, else 0."""

    roles = ("challenger",)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return torch.tensor([float(parse(turn.reply.text) is None) for turn in turns])


def _right(question: str, answer: str) -> bool:
    parsed = parse(question)
    return parsed is not None and answer == parsed.answer
