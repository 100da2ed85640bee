"""Evaluation is play without an update: held-out questions dealt in order, the exact truth as referee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from scipy import stats

from selfplay.core import Policy, SelfplayError, at_least
from selfplay.games.dataset import Dataset
from selfplay.play import play, settle
from selfplay.players.nature import Deal
from selfplay.referees.verifier import Verifier
from selfplay.world import Question, held_out

if TYPE_CHECKING:
    from selfplay.build import Cast


@dataclass(frozen=True)
class Score:
    """How many of the questions were answered rightly.

    Attributes:
        correct: one flag a question, in the order of the questions.
        questions: what was asked.
    """

    correct: tuple[bool, ...]
    questions: tuple[Question, ...]

    def summary(self) -> dict[str, object]:
        """Accuracy with its 95 % Wilson interval, by family and by level, and the flags as a string of 0 and 1."""
        interval = stats.binomtest(sum(self.correct), len(self.correct)).proportion_ci(0.95, method="wilson")
        return {
            "accuracy": fmean(self.correct),
            "interval": [interval.low, interval.high],
            "questions": len(self.correct),
            "families": self._by([q.family for q in self.questions]),
            "levels": self._by([str(q.level) for q in self.questions]),
            "correct": "".join(str(int(c)) for c in self.correct),
        }

    def _by(self, labels: Sequence[str]) -> dict[str, float]:
        cells: dict[str, list[bool]] = {}
        for label, correct in zip(labels, self.correct, strict=True):
            cells.setdefault(label, []).append(correct)
        return {label: fmean(cell) for label, cell in cells.items()}


class HeldOut:
    """Accuracy on the tiny world's held-out questions.

    Args:
        per_cell: questions for each family and level.
        temperature: of the answers; 0 is greedy.
        every: steps between evaluations (there is always one before the first and one after the last step).
        seed: which held-out questions.
    """

    def __init__(self, per_cell: int, temperature: float, every: int, seed: int) -> None:
        at_least(1, per_cell=per_cell, every=every)
        if temperature < 0:
            raise SelfplayError(f"eval.temperature is {temperature}; use 0 for greedy answers, or more")
        self.temperature, self.every = temperature, every
        self.questions = held_out(per_cell, seed)
        self.nature = Deal([q.text for q in self.questions])

    def __call__(self, cast: Cast) -> dict[str, object]:
        return self.score(cast.opponent.main).summary()

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return gain(before, after)

    def score(self, policy: Policy) -> Score:
        """The policy's answers to the held-out questions."""
        game, truth = Dataset(answers=1, quality_weight=0.0), Verifier()
        seats = {"chance": self.nature, "solver": policy.at(self.temperature)}
        episodes = play(game, seats, range(len(self.questions)), key="eval")
        settle(game, episodes, {"reward": truth}, {})
        return Score(tuple(e.turns[1].scores["reward"] > 0 for e in episodes), tuple(self.questions))


def gain(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    """The change of accuracy on the same questions, with a paired 95 % interval (Student's t over the questions)."""
    changes = [int(b) - int(a) for a, b in zip(str(before["correct"]), str(after["correct"]), strict=True)]
    mean, error = fmean(changes), float(stats.sem(changes)) if len(changes) > 1 else 0.0
    half = error * float(stats.t.ppf(0.975, len(changes) - 1)) if len(changes) > 1 else 0.0
    return {"gain": mean, "interval": [mean - half, mean + half]}
