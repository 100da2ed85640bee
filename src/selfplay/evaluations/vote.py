"""Several sampled answers to each held-out question: their majority, pass@k, agreement and its calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from selfplay.core import Policy, SelfplayError, Turn, at_least
from selfplay.evaluations.held_out import Score, gain
from selfplay.games.dataset import Dataset
from selfplay.options import Name, NotEmpty, Period, Range, Temperature
from selfplay.players.nature import Deal
from selfplay.referees.verifier import Verifier
from selfplay.rollout import play, score_and_pay
from selfplay.tasks.task import Item, Task
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


@dataclass(frozen=True)
class Votes:
    """The sampled answers to one question.

    Attributes:
        right: whether each of the n answers is correct.
        winner: the index of an answer of the majority, see `majority`; None if nobody answered.
        votes: the number of answers of the majority.
    """

    right: tuple[bool, ...]
    winner: int | None
    votes: int

    @property
    def correct(self) -> bool:
        """Whether the majority is correct."""
        return self.winner is not None and self.right[self.winner]


class Vote:
    """Accuracy of the majority of n sampled answers to each of a task's held-out questions, maj@n.

    Two answers are the same if `Task.answer_in` of both is; an empty one does not vote, and ties go to the answer that
    was sampled first. Reported besides: `mean_accuracy` of single answers; pass@k for k = 1, 2, 4, ..., n, the
    probability that one of k answers is correct (Codex, 2107.03374, equation 1: unbiased from n answers); `agreement`,
    the mean share of the majority's votes; the majority's accuracy by its votes; and `calibration_error`, the mean over
    questions of the distance between agreement and accuracy at equal votes. Intervals are over questions.

    Args:
        task: see `selfplay.tasks`.
        samples: n, answers to a question.
        temperature: sampling temperature of the answers.
        every: steps between evaluations; one always runs before the first step and one after the last.
        players: the policies that answer, each as often as the others; several vote together.

    Raises:
        SelfplayError: there are fewer than two samples, or not equally many for each player; the temperature is not
            positive; or the task has no held-out questions or no ground truth.
    """

    def __init__(
        self,
        task: Task,
        samples: Annotated[int, Range(2, 10_000)] = 8,
        temperature: Temperature = 1.0,
        every: Period = 20,
        players: Annotated[Sequence[Name], NotEmpty()] = ("learner",),
    ) -> None:
        at_least(1, every=every)
        at_least(2, **{"eval.samples": samples})
        if not temperature > 0:
            raise SelfplayError(f"eval.temperature is {temperature}, but equal answers need no vote; use one above 0")
        self.samples, self.temperature, self.every = samples, temperature, every
        self.players = tuple(players)
        if samples % len(self.players):
            raise SelfplayError(
                f"eval.samples is {samples}, which {len(self.players)} players cannot share; use a multiple of it"
            )
        self.task, self.items = task, tuple(task.held_out())
        if not task.judges:
            raise SelfplayError(f"{type(task).__name__} has no ground truth; use eval=win_rate or eval=none")
        if not self.items:
            raise SelfplayError(f"{type(task).__name__} has no held-out questions; add some, or use eval=none")
        self.nature = Deal([item.question for item in self.items])

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        players = experiment.opponent.players | {"learner": experiment.opponent.main}
        for name in self.players:
            if not isinstance(players.get(name), Policy):
                raise SelfplayError(f"eval.players names '{name}', which is no policy of this run; name a learner")
        return summary(self.votes(*(players[name] for name in self.players)), self.items)  # type: ignore[arg-type]

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        more = {k: float(after[k]) - float(before[k]) for k in ("mean_accuracy", "agreement")}  # type: ignore[arg-type]
        return {**gain(before, after), **more}

    def votes(self, *policies: Policy) -> list[Votes]:
        """The policies' answers to each held-out question."""
        game = Dataset(answers=self.samples // len(policies), quality_weight=0.0)
        answers: list[list[Turn]] = [[] for _ in self.items]
        for i, policy in enumerate(policies):
            seats = {"chance": self.nature, "solver": policy.with_temperature(self.temperature)}
            episodes = play(game, seats, range(len(self.items)), key=f"eval/vote/{i}" if i else "eval/vote")
            score_and_pay(game, episodes, {"reward": Verifier(self.task)}, {})
            for listed, episode in zip(answers, episodes, strict=True):
                listed += episode.turns[1:]
        found = []
        for turns in answers:
            winner, votes = majority(self.task.answer_in(turn.reply.text) for turn in turns)
            found.append(Votes(tuple(turn.scores["reward"] >= 1 for turn in turns), winner, votes))
        return found


def majority(answers: Iterable[str]) -> tuple[int | None, int]:
    """The index of the first of the commonest answers, and how many are equal to it; (None, 0) if all are empty.

    Of equally common answers, the one that occurs first wins.
    """
    listed = list(answers)
    counts = Counter(filter(None, listed))
    if not counts:
        return None, 0
    answer, votes = counts.most_common(1)[0]  # the first of those with as many
    return listed.index(answer), votes


def pass_at(samples: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the probability that k of n answers, of which c are correct, include a correct one."""
    return 1 - comb(samples - correct, k) / comb(samples, k)


def summary(found: Sequence[Votes], items: Sequence[Item]) -> dict[str, object]:
    """The metrics of the votes on a list of questions."""
    n = len(found[0].right)
    counts = sorted({1, n, *(2**i for i in range(n.bit_length()) if 2**i <= n)})
    passed = {f"pass@{k}": [pass_at(n, sum(one.right), k) for one in found] for k in counts}
    by_votes = {
        f"{votes}_of_{n}": [one.correct for one in found if one.votes == votes]
        for votes in sorted({one.votes for one in found})
    }
    shares = {name: int(name.partition("_")[0]) / n for name in by_votes}
    error = sum(len(cell) * abs(fmean(cell) - shares[name]) for name, cell in by_votes.items()) / len(found)
    majorities = Score(tuple(one.correct for one in found), tuple(items)).summary()
    single = passed["pass@1"]
    return {
        **majorities,
        "mean_accuracy": fmean(single),
        "mean_accuracy_interval": intervals.as_list(intervals.bounded(single, 0.0, 1.0)),
        "agreement": fmean(one.votes / n for one in found),
        "calibration_error": error,
        "pass": {name: fmean(values) for name, values in passed.items()},
        "votes": {name: fmean(cell) for name, cell in by_votes.items()},
        "questions_by_votes": {name: len(cell) for name, cell in by_votes.items()},
        "intervals": {
            **majorities.get("intervals", {}),  # type: ignore[dict-item]
            "pass": {name: intervals.as_list(intervals.bounded(v, 0.0, 1.0)) for name, v in passed.items()},
            "votes": {
                name: intervals.as_list(intervals.share(sum(cell), len(cell))) for name, cell in by_votes.items()
            },
        },
    }
