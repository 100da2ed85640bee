"""Win rate of the learner's answers against an opponent's on held-out questions, judged by a referee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from selfplay.core import Ask, Policy, Referee, Reply, SelfplayError, Turn, at_least, user
from selfplay.evaluations.answers import answers
from selfplay.options import Name, Period, Range
from selfplay.rollout import wrong_scores
from selfplay.tasks.task import Task
from selfplay.theory import intervals

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class WinRate:
    """The learner's win rate against an opponent on a task's held-out questions, as in AlpacaEval (arXiv 2404.04475).

    Both players answer every question, and a referee scores both answers. The learner wins if its answer scores higher;
    a tie is half a win. The referee scores each pair in both orders, and the result is the mean, which cancels a
    referee's position bias. The intervals are those of questions won minus questions lost (`theory.intervals.change`),
    so they have positive width even if all questions are won. Judges prefer long answers, so the mean lengths are
    reported too. `quarters` holds each question's result in quarters: 4 if it was won in both orders.

    Args:
        task: source of the held-out questions, see `selfplay.tasks`; ground truth is not needed.
        referee: see `selfplay.referees`; it scores turns of the role "solver".
        opponent: "reference" for the learner before the first step, or another player of the run.
        temperature: sampling temperature of the answers; 0 is greedy.
        every: steps between evaluations; one always runs before the first step and one after the last.

    Raises:
        SelfplayError: the temperature is negative, or the task has fewer than two held-out questions.
        SelfplayError (when called): no player has the opponent's name.
    """

    def __init__(
        self,
        task: Task,
        referee: Referee,
        opponent: Name = "reference",
        temperature: Annotated[float, Range(0, 100)] = 0.0,
        every: Period = 20,
    ) -> None:
        at_least(1, every=every)
        if temperature < 0:
            raise SelfplayError(f"eval.temperature is {temperature}; use 0 for greedy answers, or a positive number")
        self.questions = [item.question for item in task.held_out()]
        if len(self.questions) < 2:
            raise SelfplayError(
                f"{type(task).__name__} has {len(self.questions)} held-out questions, but a win rate needs at least 2; "
                "add some"
            )
        self.referee, self.opponent, self.temperature, self.every = referee, opponent, temperature, every

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        players = experiment.opponent.players
        if self.opponent not in players:
            raise SelfplayError(
                f"eval.opponent is '{self.opponent}', but the players are {', '.join(players)}; choose one of them"
            )
        other = players[self.opponent]
        ours = answers(experiment.opponent.main.with_temperature(self.temperature), self.questions, "eval/win_rate")
        cooler = other.with_temperature(self.temperature) if isinstance(other, Policy) else other
        theirs = answers(cooler, self.questions, "eval/win_rate")
        return self.summary(ours, theirs, experiment.players)

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        changes = {k: float(after[k]) - float(before[k]) for k in ("win_rate", "length")}  # type: ignore[arg-type]
        pairs = zip(str(before["quarters"]), str(after["quarters"]), strict=True)
        return {**changes, "interval": _interval([(int(b) - int(a)) / 4 for a, b in pairs], 0.0, 1.0)}

    def summary(self, ours: Sequence[str], theirs: Sequence[str], players: Mapping[str, Policy]) -> dict[str, object]:
        """The metrics of one answer per question from each player; `players` is passed to the referee."""
        first = _won(*self._scores(ours, theirs, players).unbind(1))
        second = 1 - _won(*self._scores(theirs, ours, players).unbind(1))
        won = (first + second) / 2
        return {
            "win_rate": float(won.mean()),
            "interval": _interval((2 * won - 1).tolist(), 0.5, 0.5),
            "questions": len(won),
            "ties": float((won == 0.5).double().mean()),
            "order": float((first != second).double().mean()),
            "length": fmean(map(len, ours)),
            "opponent_length": fmean(map(len, theirs)),
            "longer": fmean((len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in zip(ours, theirs, strict=True)),
            "quarters": "".join(str(round(4 * x)) for x in won.tolist()),
        }

    def _scores(self, first: Sequence[str], second: Sequence[str], players: Mapping[str, Policy]) -> Tensor:
        """[Q, 2] scores of both answers to each question; the referee sees them in this order, as one group."""
        turns = [
            Turn(Ask("solver", user(question), group=i, key=f"eval/win_rate/{i}/{place}"), Reply(reply))
            for i, question in enumerate(self.questions)
            for place, reply in enumerate((first[i], second[i]))
        ]
        scores = self.referee.score(turns, players)
        if wrong := wrong_scores(scores, len(turns)):
            raise SelfplayError(
                f"the referee of eval ({type(self.referee).__name__}) returned {wrong}, not {len(turns)} finite scores"
            )
        return scores.double().cpu().view(-1, 2)


def _interval(signed: Sequence[float], start: float, factor: float) -> list[float] | None:
    """Interval of start + factor * mean(signed), for values in [-1, 1], one per question."""
    better, worse = sum(max(x, 0.0) for x in signed), sum(max(-x, 0.0) for x in signed)
    low, high = intervals.change(better, worse, len(signed))
    return intervals.as_list((start + factor * low, start + factor * high))


def _won(mine: Tensor, others: Tensor) -> Tensor:
    """[Q] 1 where `mine` is higher, 1/2 where they are equal, else 0."""
    return (mine > others).double() + (mine == others).double() / 2
