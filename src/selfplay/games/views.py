"""One question in several wordings: self-training on labels that the wordings agree on (SimPLE, 2305.17197)."""

from collections.abc import Sequence

from selfplay.core import Ask, Episode, Game, Play, SelfplayError, score, user
from selfplay.tasks.task import Task


class Views(Game):
    """Nature samples a question, and the Solver answers it once in each of its wordings, all at the same time.

    The Solver earns the "reward" of each answer: with `reward=agreement` it is 1 for those that the majority of the
    wordings gives, with `reward=edited_labels` for those that SimPLE's rule leaves.

    Args:
        task: gives the wordings of a question, see `Task.wordings`.
        options: the possible answers; empty for free text.

    Raises:
        SelfplayError (when playing): a question has fewer than two wordings.
    """

    roles = ("chance", "solver")
    judged = ("solver",)

    def __init__(self, task: Task, options: Sequence[str] = ("yes", "no")) -> None:
        self.task, self.options = task, tuple(options)

    def play(self) -> Play:
        [question] = yield [Ask("chance")]
        wordings = self.task.wordings(question.text)
        if len(wordings) < 2:
            raise SelfplayError(
                f"game=views asks a question in several wordings, but {type(self.task).__name__} knows only one of "
                f"'{question.text[:80]}'; use task=world, or another game"
            )
        yield [Ask("solver", user(text), options=self.options, group=0) for text in wordings]
        return None

    def payoffs(self, episode: Episode) -> list[float]:
        return [0.0, *(score(turn, "reward") for turn in episode.turns[1:])]
