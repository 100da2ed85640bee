"""Agreement with the majority of the answers to the same question: a reward that needs no truth."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.options import Name
from selfplay.tasks.task import Task
from selfplay.tasks.voting import majority


class Agreement(Referee):
    """1 for an answer that equals the majority of its group's answers (or of those to the same prompt), else 0.

    The Solver's reward in R-Zero (2508.05004), Self-Questioning Language Models (2508.03682) and TTRL (2504.16084).
    An empty answer does not vote and scores 0. Of equally common answers the greatest as a string is the majority.

    Args:
        task: says which part of a reply is the answer; None compares whole replies.
        roles: the roles whose turns are scored; empty for those that the game judges.

    Raises:
        SelfplayError (when scoring): a group has a single answer, which would always agree with itself.
    """

    def __init__(self, task: Task | None = None, roles: Sequence[Name] = ()) -> None:
        self.task, self.roles = task, tuple(roles)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        answers = [turn.reply.text if self.task is None else self.task.answer_in(turn.reply.text) for turn in turns]
        groups: dict[object, list[int]] = {}
        for place, turn in enumerate(turns):
            said = tuple((message["role"], message["content"]) for message in turn.ask.messages)
            among = said if turn.ask.group is None else turn.ask.group
            groups.setdefault((turn.ask.key.rpartition("/")[0], turn.ask.role, among), []).append(place)
        scores = torch.zeros(len(turns))
        for places in groups.values():
            if len(places) == 1:
                raise SelfplayError(
                    f"reward=agreement compares several answers, but '{turns[places[0]].ask.prompt[:80]}' "
                    "has only one; use game.answers=2 or more, or another reward"
                )
            winner = majority([answers[place] for place in places])
            scores[torch.tensor(places)] = torch.tensor([float(answers[p] == winner != "") for p in places])
        return scores
