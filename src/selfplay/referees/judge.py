"""LLM judges behind an endpoint that grade a single answer on a scale.

Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685), single-answer grading.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from selfplay.core import Policy, Referee, SelfplayError, Turn
from selfplay.options import Expression, Holding, Number, Range, Reward
from selfplay.referees.deduplicate import Pair, score_deduplicated
from selfplay.referees.endpoint import Endpoint
from selfplay.referees.judge_prompt import JudgePrompt
from selfplay.thoughts import last_match, said


class VerdictReader:
    """Queries a judge and parses its verdicts.

    Args:
        prompt: see `JudgePrompt`.
        pattern: regular expression with one group, the verdict; the last match outside the judge's thoughts counts.
        unreadable: value of a reply without a verdict; "error" stops the run instead.
        endpoint: the judge.

    Raises:
        SelfplayError: the pattern is invalid, or `unreadable` is neither a number nor "error".
    """

    def __init__(self, prompt: JudgePrompt, pattern: str, unreadable: float | str, endpoint: Endpoint) -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise SelfplayError(
                f"the judge's pattern '{pattern}' is not a valid regular expression ({error}); fix it"
            ) from None
        if self.pattern.groups != 1:
            raise SelfplayError(
                f"the judge's pattern '{pattern}' has {self.pattern.groups} groups; give it exactly one, the verdict"
            )
        if unreadable != "error" and not isinstance(unreadable, int | float):
            raise SelfplayError(f"the judge's `unreadable` is '{unreadable}'; give a number, or error")
        self.prompt, self.endpoint, self.unreadable = prompt, endpoint, unreadable
        self.metrics: dict[str, float] = {}

    def verdicts(self, shown: Sequence[Sequence[str]], read: Callable[[str], float | None]) -> list[float | None]:
        """The parsed verdict for each tuple of texts, or None if it cannot be parsed.

        Updates `metrics`: `abstained` (fraction of replies without a verdict), `cut` (fraction of texts that were
        shortened), and `asked` and `retried` of the endpoint.

        Args:
            shown: the texts for the prompt's placeholders, one tuple per query.
            read: converts the pattern's match to a number, or to None.

        Raises:
            SelfplayError: the endpoint failed, or a verdict cannot be parsed and `unreadable` is "error".
        """
        prompts = [self.prompt.filled(texts) for texts in shown]
        replies = self.endpoint.ask(prompts)
        found = [self._read(reply, read) for reply in replies]
        lost = [i for i, value in enumerate(found) if value is None]
        if lost and self.unreadable == "error":
            self.endpoint.forget([prompts[i] for i in lost])  # so that a resumed run asks again
            example = " ".join(replies[lost[0]].split())[:80]
            raise SelfplayError(
                f"{len(lost)} of {len(found)} replies of the judge have no verdict (one is '{example}'); check its "
                "prompt, pattern and max_tokens, or set unreadable=<number> to score such replies"
            )
        texts = {text for group in shown for text in group}
        self.metrics = {
            "abstained": len(lost) / max(len(found), 1),
            "cut": sum(map(self.prompt.cuts, texts)) / max(len(texts), 1),
            "asked": float(self.endpoint.asked),
            "retried": float(self.endpoint.retried),
        }
        return found

    def worth(self, verdict: float | None) -> float:
        """The verdict, or the value of `unreadable` for None."""
        return float(self.unreadable) if verdict is None else verdict

    def _read(self, reply: str, read: Callable[[str], float | None]) -> float | None:
        verdict = last_match(self.pattern, said(reply))
        return None if verdict is None else read(verdict)


class ScoringJudge(Referee):
    """Grades an answer by the number that the judge writes, mapped linearly from its scale to [0, 1].

    Reports `abstained` (fraction of replies without a number on the scale), `cut`, `asked` and `retried`.

    Args:
        prompt: template with the placeholders {question}, {answer} and optionally {mark}, see `JudgePrompt`.
        pattern: regular expression whose only group is the number; the last match counts.
        endpoint: the judge.
        worst: the number that maps to 0.
        best: the number that maps to 1; it may be smaller than `worst`.
        unreadable: the score of a reply without such a number; "error" stops the run.
        max_characters: longer questions and answers are shortened in the middle to this length.

    Raises:
        SelfplayError: an argument is invalid.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer")],
        pattern: Annotated[str, Expression(1)],
        endpoint: Endpoint,
        worst: Number = 0.0,
        best: Number = 10.0,
        unreadable: Reward | Literal["error"] = 0.0,
        max_characters: Annotated[int, Range(2, 1_000_000_000)] = 8000,
    ) -> None:
        if not math.isfinite(best - worst) or best == worst:
            raise SelfplayError(f"the judge's scale goes from {worst} to {best}; give two different finite ends")
        template = JudgePrompt(prompt, ("question", "answer"), max_characters)
        self.reader = VerdictReader(template, pattern, unreadable, endpoint)
        self.worst, self.best = worst, best

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        return score_deduplicated(turns, self._judged)

    def _judged(self, pairs: list[Pair]) -> Tensor:
        verdicts = self.reader.verdicts(pairs, self.read)
        self.metrics = self.reader.metrics
        return torch.tensor([self.reader.worth(v) for v in verdicts])

    def read(self, verdict: str) -> float | None:
        """The number mapped to [0, 1], or None if it is not a number on the scale."""
        if not re.fullmatch(r"[+-]?\d+(\.\d+)?", verdict, re.ASCII):
            return None
        place = (float(verdict) - self.worst) / (self.best - self.worst)
        return place if 0 <= place <= 1 else None
