"""A language model behind an endpoint as judge: how good an answer is, on a scale.

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
from selfplay.referees.judge_prompt import JudgePrompt, last_match
from selfplay.thoughts import said


class VerdictReader:
    """Asks a judge and reads its verdicts: what it is shown, and what an unreadable verdict is worth.

    Args:
        prompt: see `JudgePrompt`.
        pattern: a regular expression with one group; its last match in a reply is the verdict, thoughts left out.
        unreadable: what counts for a reply without a verdict; "error" ends the run instead.
        endpoint: who answers.

    Raises:
        SelfplayError: the pattern is none, or `unreadable` is neither.
    """

    def __init__(self, prompt: JudgePrompt, pattern: str, unreadable: float | str, endpoint: Endpoint) -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise SelfplayError(
                f"the judge's pattern '{pattern}' is no regular expression ({error}); mend it"
            ) from None
        if self.pattern.groups != 1:
            raise SelfplayError(f"the judge's pattern '{pattern}' has not one group, which is the verdict; give it one")
        if unreadable != "error" and not isinstance(unreadable, int | float):
            raise SelfplayError(f"the judge's unreadable is '{unreadable}'; give a number, or error")
        self.prompt, self.endpoint, self.unreadable = prompt, endpoint, unreadable
        self.metrics: dict[str, float] = {}

    def verdicts(self, shown: Sequence[Sequence[str]], read: Callable[[str], float | None]) -> list[float | None]:
        """What `read` makes of each verdict, one for each tuple of texts; None where it can make nothing of it.

        `metrics` then hold the shares of replies without a verdict and of texts that were cut, and what was asked.

        Raises:
            SelfplayError: the endpoint failed, or a verdict cannot be read and that is an error.
        """
        prompts = [self.prompt.filled(texts) for texts in shown]
        replies = self.endpoint.ask(prompts)
        found = [self._read(reply, read) for reply in replies]
        lost = [i for i, value in enumerate(found) if value is None]
        if lost and self.unreadable == "error":
            self.endpoint.forget([prompts[i] for i in lost])  # so that a resumed run asks again
            said = " ".join(replies[lost[0]].split())[:80]
            raise SelfplayError(
                f"{len(lost)} of {len(found)} replies of the judge have no verdict (one says '{said}'); look at its "
                "prompt, pattern and max_tokens, or say with unreadable=<number> what such a reply is worth"
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
        """The verdict, or what stands for one that cannot be read."""
        return float(self.unreadable) if verdict is None else verdict

    def _read(self, reply: str, read: Callable[[str], float | None]) -> float | None:
        verdict = last_match(self.pattern, said(reply))
        return None if verdict is None else read(verdict)


class ScoringJudge(Referee):
    """How good an answer is, by the number that the judge writes: 0 at the bottom of its scale, 1 at the top.

    Reports `abstained` (share of replies without a number on the scale), `cut`, `asked`, `retried`.

    Args:
        prompt: with the places {question}, {answer} and perhaps {mark}, see `JudgePrompt`.
        pattern: with one group, the number; its last match counts.
        worst: the number at the bottom of the scale.
        best: the number at its top; it may be the smaller one.
        unreadable: the score where there is no such number; "error" ends the run.
        max_characters: of a question or an answer, the rest is left out of its middle.
        endpoint: who judges.

    Raises:
        SelfplayError: a wrong option.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer")],
        pattern: Annotated[str, Expression(1)],
        worst: Number,
        best: Number,
        unreadable: Reward | Literal["error"],
        max_characters: Annotated[int, Range(2, 1_000_000_000)],
        endpoint: Endpoint,
    ) -> None:
        if not math.isfinite(best - worst) or best == worst:
            raise SelfplayError(f"the judge's scale goes from {worst} to {best}; give it two different ends")
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
        """The place of a number on the scale, or None where it is no number or not on it."""
        if not re.fullmatch(r"[+-]?\d+(\.\d+)?", verdict, re.ASCII):
            return None
        place = (float(verdict) - self.worst) / (self.best - self.worst)
        return place if 0 <= place <= 1 else None
