"""Nature with a strategy: which questions of a pool are asked, and how often."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any

import torch
from torch import Tensor

from selfplay.core import Adaptive, Ask, Episode, Player, Reply, SelfplayError
from selfplay.options import Count, Name, Seed, Steps
from selfplay.players.nature import Nature
from selfplay.selection.pool import Pool
from selfplay.selection.strategies import Strategy, uniform


class Selection(Nature, Adaptive):
    """Nature that draws questions from a pool by a strategy. Asks with options are answered as by `Nature`.

    Before the first step all questions are equally likely.

    Args:
        draw: samples a training question, for the pool; set by games that ask questions of a task.
        size: number of different questions in the pool.
        strategy: what is known of the pool -> the weight of each question, see `selfplay.selection.strategies`.
        every: steps between calls of the strategy; 0: only before the first step.
        measure: the score whose mean over the answers to a question says how well it is solved.
        teacher: the player whose replies are the demonstrations.
        batch_size: questions per forward pass, where a strategy reads a model.
        seed: of the pool.

    Raises:
        SelfplayError: there are no questions to draw, or fewer than `size`.
    """

    def __init__(
        self,
        draw: Callable[[Random], str] | None = None,
        size: Count = 1024,
        strategy: Strategy = uniform,
        every: Steps = 0,
        measure: Name = "truth",
        teacher: Name = "teacher",
        batch_size: Count = 256,
        seed: Seed = 0,
    ) -> None:
        if draw is None:
            raise SelfplayError(
                "data selects questions, but this game draws none from a task; use game=dataset or "
                "game=demonstrations, or data=none"
            )
        super().__init__(draw)
        self.pool, self.strategy = Pool(draw, size, seed, batch_size), strategy
        self.every, self.measure, self.teacher = every, measure, teacher
        self._use(torch.ones(size))

    def before(self, step: int, players: Mapping[str, Player]) -> None:
        if step == 1 or (self.every and (step - 1) % self.every == 0):
            self._use(self.strategy(self.pool.view(step, players, self.teacher)))

    def after(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        self.pool.count(episodes, self.measure)
        p = self.weights.double() / self.weights.double().sum()
        return {"data/effective": float(1.0 / (p**2).sum()), "data/tried": float((self.pool.tried > 0).float().mean())}

    def _one(self, ask: Ask, rng: Random) -> Reply:
        if ask.options:
            return super()._one(ask, rng)
        return Reply(self.pool.questions[bisect(self._sums, rng.random() * self._sums[-1])])

    def _use(self, weights: Tensor) -> None:
        """Draw by these weights from now on."""
        count = len(self.pool)
        if tuple(weights.shape) != (count,):
            raise SelfplayError(
                f"the strategy gave weights of shape {tuple(weights.shape)} for {count} questions; give one each"
            )
        bad = weights[~(weights >= 0) | weights.isinf()]
        if len(bad) or not bool(weights.sum() > 0):
            found = f"{bad[0].item():g}" if len(bad) else "0 for every question"
            raise SelfplayError(
                f"the strategy gave the weight {found}; give finite weights of at least 0, not all of them 0"
            )
        self.weights = weights.detach().cpu().float()
        self._sums = list(accumulate(self.weights.double().tolist()))

    def state_dict(self) -> dict[str, object]:
        pool = self.pool
        return {"weights": self.weights, "tried": pool.tried, "solved": pool.solved, "digest": pool.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["digest"] != self.pool.digest:
            raise SelfplayError(
                "the pool of questions is not that of the checkpoint; restore the task's files and options, or start "
                "a new run"
            )
        self.pool.tried, self.pool.solved = state["tried"], state["solved"]
        self._use(state["weights"])
