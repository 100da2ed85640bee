"""A language model behind an endpoint as judge of two answers: against the others of the group, or the reference's.

Both orders are asked, for judges prefer a place (Zheng et al., arXiv 2306.05685, section 3.3; Wang et al.,
arXiv 2305.17926).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Annotated, Literal

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn, at_least
from selfplay.options import Count, Expression, Holding, Range, Reward
from selfplay.referees.endpoint import Endpoint
from selfplay.referees.judge import VerdictReader
from selfplay.referees.judge_prompt import JudgePrompt

Match = tuple[str, str, str]  # a question and two answers
POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}  # of the answer that is shown first


class Comparison:
    """Two answers to a question: 1 point for the better one, ½ for a tie, the mean over both orders.

    Two orders that name different winners make a tie; they are counted as `inconsistent` (share of the matches). Two
    equal answers are a tie and nobody is asked. `first` is the share of decided verdicts that go to the answer shown
    first, ½ for a judge that is fair to both places. `abstained`, `cut`, `asked` and `retried` are of `VerdictReader`.

    Args:
        reader: with the places question, answer_a and answer_b; verdicts are A, B or tie.
    """

    def __init__(self, reader: VerdictReader) -> None:
        self.reader = reader
        self.metrics: dict[str, float] = {}

    def points(self, matches: Iterable[Match]) -> dict[Match, float]:
        """What each match gives to its first answer; a match is asked for once, whoever stands first in it."""
        wanted = list(dict.fromkeys(matches))
        pairs = list(dict.fromkeys((q, *sorted((a, b))) for q, a, b in wanted if a != b))
        shown = [order for q, a, b in pairs for order in ((q, a, b), (q, b, a))]
        verdicts = self.reader.verdicts(shown, lambda verdict: POINTS.get(verdict.casefold()))
        decided = [v for v in verdicts if v in (0.0, 1.0)]
        straight, swapped = verdicts[::2], verdicts[1::2]
        clash = [v is not None and v == w and v != 0.5 for v, w in zip(straight, swapped, strict=True)]
        self.metrics = {
            **self.reader.metrics,
            "inconsistent": sum(clash) / max(len(pairs), 1),
            "first": fmean(decided) if decided else 0.5,
        }
        given: dict[Match, float] = {(q, a, a): 0.5 for q, a, _ in wanted}
        for (q, a, b), v, w in zip(pairs, straight, swapped, strict=True):
            given[q, a, b] = (self.reader.worth(v) + self.reader.worth(None if w is None else 1.0 - w)) / 2
            given[q, b, a] = (self.reader.worth(None if v is None else 1.0 - v) + self.reader.worth(w)) / 2
        return {match: given[match] for match in wanted}


class GroupJudge(Referee):
    """An answer's mean points against other answers to the same question.

    Args:
        prompt: with the places {question}, {answer_a}, {answer_b} and perhaps {mark}, see `JudgePrompt`.
        pattern: with one group that is A, B or tie in the last match.
        unreadable: what both answers get from an order without a verdict; "error" ends the run.
        max_characters: of a question or an answer, the rest is left out of its middle.
        opponents: how many other answers each is compared with, one more where that cannot be for all of them (an odd
            number of answers with an odd number of opponents); None for all.
        endpoint: who judges.

    Raises:
        SelfplayError: a wrong option; later, an answer that is the only one to its question.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer_a", "answer_b")],
        pattern: Annotated[str, Expression(1)],
        unreadable: Reward | Literal["error"],
        max_characters: Annotated[int, Range(2, 1_000_000_000)],
        opponents: Count | None,
        endpoint: Endpoint,
    ) -> None:
        if opponents is not None:
            at_least(1, opponents=opponents)
        self.opponents = opponents
        self.comparison = _comparison(prompt, pattern, unreadable, max_characters, endpoint)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        groups: dict[str, list[int]] = {}
        for i, turn in enumerate(turns):
            groups.setdefault(turn.ask.prompt, []).append(i)
        met: dict[int, list[Match]] = {}
        for question, members in groups.items():
            if len(members) == 1:
                raise SelfplayError(
                    f"'{question[:80]}' has one answer only, so there is none to compare it with; raise game.answers, "
                    "or use reward=judge_reference"
                )
            for i, j in meetings(len(members), self.opponents):
                one, other = members[i], members[j]
                said, reply = turns[one].reply.text, turns[other].reply.text
                met.setdefault(one, []).append((question, said, reply))
                met.setdefault(other, []).append((question, reply, said))
        points = self.comparison.points(match for matches in met.values() for match in matches)
        self.metrics = self.comparison.metrics
        return torch.tensor([fmean(points[match] for match in met[i]) for i in range(len(turns))])


class ReferenceJudge(Referee):
    """An answer's points against the answer that the reference, the learner before the first step, likes best.

    Args:
        prompt: as of `GroupJudge`.
        pattern: as of `GroupJudge`.
        unreadable: as of `GroupJudge`.
        max_characters: as of `GroupJudge`.
        endpoint: who judges.

    Raises:
        SelfplayError: a wrong option.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer_a", "answer_b")],
        pattern: Annotated[str, Expression(1)],
        unreadable: Reward | Literal["error"],
        max_characters: Annotated[int, Range(2, 1_000_000_000)],
        endpoint: Endpoint,
    ) -> None:
        self.comparison = _comparison(prompt, pattern, unreadable, max_characters, endpoint)

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        seen = [json.dumps(turn.ask.messages) for turn in turns]
        asks = {text: replace(turn.ask, key="reference") for text, turn in zip(seen, turns, strict=True)}
        replies = players["reference"].with_temperature(0.0).act(list(asks.values()))
        others = {text: reply.text for text, reply in zip(asks, replies, strict=True)}
        matches = [(turn.ask.prompt, turn.reply.text, others[text]) for text, turn in zip(seen, turns, strict=True)]
        points = self.comparison.points(matches)
        self.metrics = self.comparison.metrics
        return torch.tensor([points[match] for match in matches])


def meetings(players: int, opponents: int | None) -> list[tuple[int, int]]:
    """Who meets whom in a ring of n ≥ 2, each pair once, so that everybody meets equally many others.

    Everybody meets `opponents` others, one more where n and `opponents` are both odd, and all where they are fewer.
    """
    wanted = players - 1 if opponents is None else min(opponents, players - 1)
    near, odd = divmod(wanted, 2)
    pairs = [(i, (i + step) % players) for step in range(1, near + 1) for i in range(players)]
    if odd and players % 2 == 0:
        return pairs + [(i, i + players // 2) for i in range(players // 2)]
    return pairs + [(i, (i + near + 1) % players) for i in range(players)] if odd else pairs


def _comparison(
    prompt: str, pattern: str, unreadable: float | str, max_characters: int, endpoint: Endpoint
) -> Comparison:
    template = JudgePrompt(prompt, ("question", "answer_a", "answer_b"), max_characters)
    return Comparison(VerdictReader(template, pattern, unreadable, endpoint))
