"""Pairwise LLM judges behind an endpoint: an answer against others of its group, or against the reference's answer.

Every pair is judged in both orders to cancel position bias (Zheng et al., arXiv 2306.05685, section 3.3; Wang et al.,
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
POINTS = {"a": 1.0, "b": 0.0, "tie": 0.5}  # points of the answer shown first


class Comparison:
    """Compares two answers to a question: 1 point for the better one, ½ for a tie, averaged over both orders.

    If the two orders name different winners, the match is a tie and counts as `inconsistent` (fraction of matches).
    Identical answers tie without a request. `first` is the fraction of decided verdicts for the answer shown first,
    ½ without position bias. `abstained`, `cut`, `asked` and `retried` are those of `VerdictReader`.

    Args:
        reader: its prompt has the placeholders question, answer_a and answer_b; its verdicts are A, B or tie.
    """

    def __init__(self, reader: VerdictReader) -> None:
        self.reader = reader
        self.metrics: dict[str, float] = {}

    def points(self, matches: Iterable[Match]) -> dict[Match, float]:
        """Points of the first answer of each match; a match and its mirror image share one pair of requests."""
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
    """Scores an answer by its mean points against other answers to the same question.

    Args:
        prompt: template with the placeholders {question}, {answer_a}, {answer_b} and optionally {mark}, see
            `JudgePrompt`.
        pattern: regular expression whose only group is A, B or tie; the last match counts.
        endpoint: the judge.
        unreadable: points of both answers for an order without a verdict; "error" stops the run.
        max_characters: longer questions and answers are shortened in the middle to this length.
        opponents: number of answers that each one is compared with; None for all. One more if the number of answers and
            `opponents` are both odd, because an equal number for all is then impossible.

    Raises:
        SelfplayError: an argument is invalid.
        SelfplayError (when scoring): a question has only one answer.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer_a", "answer_b")],
        pattern: Annotated[str, Expression(1)],
        endpoint: Endpoint,
        unreadable: Reward | Literal["error"] = 0.5,
        max_characters: Annotated[int, Range(2, 1_000_000_000)] = 8000,
        opponents: Count | None = None,
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
                    f"'{question[:80]}' has only one answer, so there is none to compare it with; raise game.answers, "
                    "or use reward=judge_reference"
                )
            for i, j in meetings(len(members), self.opponents):
                one, other = members[i], members[j]
                mine, theirs = turns[one].reply.text, turns[other].reply.text
                met.setdefault(one, []).append((question, mine, theirs))
                met.setdefault(other, []).append((question, theirs, mine))
        points = self.comparison.points(match for matches in met.values() for match in matches)
        self.metrics = self.comparison.metrics
        return torch.tensor([fmean(points[match] for match in met[i]) for i in range(len(turns))])


class ReferenceJudge(Referee):
    """Scores an answer by its points against the greedy answer of the reference, the learner before the first step.

    Args:
        prompt: as in `GroupJudge`.
        pattern: as in `GroupJudge`.
        endpoint: the judge.
        unreadable: as in `GroupJudge`.
        max_characters: as in `GroupJudge`.

    Raises:
        SelfplayError: an argument is invalid.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer_a", "answer_b")],
        pattern: Annotated[str, Expression(1)],
        endpoint: Endpoint,
        unreadable: Reward | Literal["error"] = 0.5,
        max_characters: Annotated[int, Range(2, 1_000_000_000)] = 8000,
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
    """Pairs of a circulant schedule in which every player meets equally many others, each pair once.

    Args:
        players: number of players, at least 2.
        opponents: number of opponents of each player, at most all others; None for all. One more if `players` and
            `opponents` are both odd.
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
