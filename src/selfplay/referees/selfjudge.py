"""The model as its own judge: the frozen reference scores a question and an answer from 0 to 7 after a rubric.

Language Self-Play (arXiv 2509.07414), section 1.5 and Box 3 (`quality=selfjudge_rubric`). Two readings of a verdict:
the score that the judge writes, or the expectation over the score tokens it might have written. The paper does not say
what an unreadable verdict earns; here it is the option `unreadable`, and its rate is logged as `<score>/unreadable`.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from selfplay.core import Ask, Policy, Referee, SelfplayError, Turn, at_least, user
from selfplay.players.language_model import LanguageModel
from selfplay.referees.distinct import Pair, score_distinct

TOP = 7  # of the rubric
TAG = re.compile(r"</?\s*(\w+)\s*>")


def judge_prompt(template: str, pair: Pair) -> str:
    """The judge's prompt; what a question or an answer holds cannot act as a placeholder or as one of its tags.

    A tag that the template has (<Response>, say) stands in square brackets where the question or the answer has it.
    """
    tags = {tag.lower() for tag in TAG.findall(template)}

    def harmless(text: str) -> str:
        return TAG.sub(lambda tag: f"[{tag[0][1:-1]}]" if tag[1].lower() in tags else tag[0], text)

    values = {"question": harmless(pair[0]), "answer": harmless(pair[1])}
    return re.sub(r"\{(question|answer)\}", lambda match: values[match[1]], template)


def reference_of(players: Mapping[str, Policy]) -> LanguageModel:
    """The frozen reference, which must be a language model."""
    reference = players["reference"]
    if not isinstance(reference, LanguageModel):
        raise SelfplayError(
            f"selfjudge needs a language model to judge, but the learner is a {type(reference).__name__}; "
            "use reward=verifier or quality=none with it"
        )
    return reference


class ExpectedScore(Referee):
    """The mean score under the judge's distribution over the tokens "0" to "7", given that it writes one of them.

    Args:
        prompt: with the placeholders {question} and {answer}.
        begin: what the judge has begun its reply with; the score comes next.
        unreadable: the score where less than half of the probability lies on the score tokens.
    """

    def __init__(self, prompt: str, begin: str, unreadable: float) -> None:
        self.prompt, self.begin, self.unreadable = prompt, begin, unreadable

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        judge = reference_of(players)
        tokens = [judge.tokenizer.encode(str(s), add_special_tokens=False) for s in range(TOP + 1)]
        if any(len(t) != 1 for t in tokens):
            raise SelfplayError(
                "the judge's tokenizer has no single token for each score; use quality=selfjudge_written"
            )

        begun = tuple(judge.tokenizer.encode(self.begin, add_special_tokens=False)) if self.begin else ()

        def expectation(pairs: list[Pair]) -> Tensor:
            prompts = [judge.render(user(judge_prompt(self.prompt, pair))) + begun for pair in pairs]
            p = judge.next_token(prompts)[:, [t[0] for t in tokens]].exp()
            mass = p.sum(-1)
            readable = mass >= 0.5
            self.metrics = {"unreadable": 1.0 - float(readable.float().mean())}
            mean = (p * torch.arange(TOP + 1.0, device=p.device)).sum(-1) / mass.clamp(min=1e-9)
            return torch.where(readable, mean, torch.full_like(mean, self.unreadable))

        return score_distinct(turns, expectation)


class WrittenScore(Referee):
    """The score that the judge writes, read from its reply.

    Args:
        prompt: with the placeholders {question} and {answer}.
        pattern: a regular expression with one group, the score; its last match in the verdict counts.
        unreadable: the score of a verdict without a match, or with one outside 0-7.
        temperature: of the judge (0 is greedy).
        max_tokens: of a verdict; None is as many as the player may write.
    """

    def __init__(
        self, prompt: str, pattern: str, unreadable: float, temperature: float, max_tokens: int | None
    ) -> None:
        if max_tokens is not None:
            at_least(1, **{"quality.max_tokens": max_tokens})
        self.prompt, self.pattern = prompt, re.compile(pattern)
        self.unreadable, self.temperature, self.max_tokens = unreadable, temperature, max_tokens

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        judge = reference_of(players).at(self.temperature)
        if self.max_tokens is not None:
            judge.max_tokens = self.max_tokens
        luck = turns[0].ask.key

        def written(pairs: list[Pair]) -> Tensor:
            asks = [
                Ask("judge", user(judge_prompt(self.prompt, pair)), key=f"{luck}/judge/{i}")
                for i, pair in enumerate(pairs)
            ]
            verdicts = [self.read(reply.text) for reply in judge.act(asks)]
            self.metrics = {"unreadable": sum(v is None for v in verdicts) / len(verdicts)}
            return torch.tensor([self.unreadable if v is None else v for v in verdicts])

        return score_distinct(turns, written)

    def read(self, verdict: str) -> float | None:
        """The score in a verdict, or None when there is none from 0 to 7."""
        found = self.pattern.findall(verdict)
        value = float(found[-1]) if found and re.fullmatch(r"\d+", found[-1]) else None
        return value if value is not None and value <= TOP else None
