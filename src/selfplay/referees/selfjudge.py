"""The model as its own judge: the frozen reference scores a question and an answer from 0 to 7 after a rubric.

Language Self-Play (arXiv 2509.07414), section 1.5 and Box 3 (`quality=selfjudge_rubric`). Two readings of a verdict:
the score that the judge writes, or the expectation over the score tokens it might have written. The paper does not say
what an unreadable verdict earns; here it is the option `unreadable`, and its rate is logged as `<score>/unreadable`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from selfplay.core import Ask, Policy, Referee, SelfplayError, Turn, at_least, user
from selfplay.options import Count, Expression, Holding, Range, Reward
from selfplay.players.language_model import LanguageModel
from selfplay.referees.deduplicate import Pair, score_deduplicated
from selfplay.referees.judge_prompt import last_match
from selfplay.thoughts import said

TOP = 7  # of the rubric
LABEL = re.compile(r"^[ \t]*(\w+):", re.MULTILINE)
MARKUP = " \t*_#>-"  # what may stand around a label
TAG = re.compile(r"</?\s*(\w+)\s*>")


def judge_prompt(template: str, pair: Pair) -> str:
    """The judge's prompt; what a question or an answer holds cannot act as a placeholder, a tag or a line of its form.

    A tag that the template has (<Response>, say) stands in square brackets where the question or the answer has it. A
    line that begins with a label of the template ("Score:", where one of its lines begins so) does not begin a line.
    """
    tags = {tag.lower() for tag in TAG.findall(template)}
    labels = {label.lower() for label in LABEL.findall(template)}

    def harmless(text: str) -> str:
        tame = TAG.sub(lambda tag: f"[{tag[0][1:-1]}]" if tag[1].lower() in tags else tag[0], text)
        lines = tame.splitlines()
        begun = [line.lstrip(MARKUP).partition(":") for line in lines]
        labelled = [bool(colon) and label.strip(MARKUP).lower() in labels for label, colon, _ in begun]
        if not any(labelled[1:]):
            return tame
        return "".join(
            line if i == 0 else f"{' ' if labelled[i] else chr(10)}{line.lstrip() if labelled[i] else line}"
            for i, line in enumerate(lines)
        )

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

    def __init__(
        self, prompt: Annotated[str, Holding("question", "answer")], begin: str = "", unreadable: Reward = 0.0
    ) -> None:
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

        return score_deduplicated(turns, expectation)


class WrittenScore(Referee):
    """The score that the judge writes, read from its reply.

    Args:
        prompt: with the placeholders {question} and {answer}.
        pattern: a regular expression with one group, the score; its last match in a verdict counts, thoughts left out.
        unreadable: the score of a verdict without a match, or with one outside 0-7.
        temperature: of the judge (0 is greedy).
        max_tokens: of a verdict; None is as many as the player may write.
    """

    def __init__(
        self,
        prompt: Annotated[str, Holding("question", "answer")],
        pattern: Annotated[str, Expression(1)],
        unreadable: Reward = 0.0,
        temperature: Annotated[float, Range(0, 100)] = 0.0,
        max_tokens: Count | None = None,
    ) -> None:
        if max_tokens is not None:
            at_least(1, **{"quality.max_tokens": max_tokens})
        self.prompt, self.pattern = prompt, re.compile(pattern)
        self.unreadable, self.temperature, self.max_tokens = unreadable, temperature, max_tokens

    def score(self, turns: Sequence[Turn], players: Mapping[str, Policy]) -> Tensor:
        judge = reference_of(players).with_temperature(self.temperature)
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

        return score_deduplicated(turns, written)

    def read(self, verdict: str) -> float | None:
        """The score in a verdict, or None when there is none from 0 to 7: none in what the judge has only thought."""
        score = last_match(self.pattern, said(verdict))
        value = float(score) if score is not None and re.fullmatch(r"[0-9]{1,9}", score) else None
        return value if value is not None and value <= TOP else None
