"""A policy of one parameter, a run folder, and a few episodes: what the tests of `selfplay.runs` share."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Ask, Batch, Episode, Player, Policy, Reply, Turn


class Toy(Policy):
    """A policy of one number."""

    def __init__(self, value: float = 0.0) -> None:
        self.weight = Parameter(torch.tensor([value]))

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply("") for _ in asks]

    def logprobs(self, batch: Batch) -> Tensor:
        return self.weight.expand(batch.replies.shape)

    def parameters(self) -> Iterable[Parameter]:
        return [self.weight]

    def snapshot(self) -> Policy:
        return Toy(self.weight.item())

    def restore(self, snapshot: Policy) -> None:
        assert isinstance(snapshot, Toy)
        self.weight.data.copy_(snapshot.weight)

    def with_temperature(self, temperature: float) -> Player:
        return self

    def save(self, folder: Path) -> None:
        torch.save(self.weight.detach(), folder / "weight.pt")

    def load(self, folder: Path) -> None:
        self.weight.data = torch.load(folder / "weight.pt")


class Killed(BaseException):
    """Stands for a signal that ends the process."""


class Dying(Toy):
    """A policy whose process is killed while it is being saved."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        raise Killed


def episodes() -> list[Episode]:
    ask = Ask("solver", ({"role": "system", "content": "s"}, {"role": "user", "content": "2+2?\nnow"}), group=(0, "a"))
    first = Turn(Ask("challenger", ({"role": "user", "content": "Write."},)), Reply("2+2?"), {}, -0.5)
    return [Episode(7, [first, Turn(ask, Reply("4\u2028é"), {"reward": 1.0}, 0.5)])]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
