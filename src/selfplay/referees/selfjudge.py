"""Self-judging: the frozen reference scores a question and an answer from 0 to 7 by a rubric.

Language Self-Play (arXiv 2509.07414), section 1.5 and Box 3 (`quality=selfjudge_rubric`). The score is either the one
that the judge writes or the expectation over the score tokens. The paper does not define the score of an unreadable
verdict; here it is the option `unreadable`, and the rate of such verdicts is logged as `<score>/unreadable`.
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
from selfplay.thoughts import last_match, said

TOP = 7  # highest score of the rubric
LABEL = re.compile(r"^[ \t]*(\w+):", re.MULTILINE)
MARKUP = " \t*_#>-"  # characters that may surround a label
TAG = re.compile(r"</?\s*(\w+)\s*>")


def judge_prompt(template: str, pair: Pair) -> str:
    """Fill in the judge's prompt so that the question and the answer cannot forge its placeholders, tags or labels.

    Tags of the template (such as <Response>) are put in square brackets in the question and the answer. Lines that
    begin with a label of the template (such as "Score:") are joined to the preceding line.

    Args:
        template: the prompt, with the placeholders {question} and {answer}.
        pair: the question and the answer.
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
    """The frozen reference; raises SelfplayError unless it is a language model."""
    reference = players["reference"]
    if not isinstance(reference, LanguageModel):
        raise SelfplayError(
            f"selfjudge needs a language model as judge, but the learner is a {type(reference).__name__}; "
            "use reward=verifier or quality=none with it"
        )
    return reference


class ExpectedScore(Referee):
    """The expected score under the judge's next-token distribution, restricted to the tokens "0" to "7".

    Args:
        prompt: template with the placeholders {question} and {answer}.
        begin: prefix of the judge's reply, after which the score token follows.
        unreadable: the score if the score tokens have less than half of the probability.
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
        prompt: template with the placeholders {question} and {answer}.
        pattern: regular expression whose only group is the score; the last match outside the judge's thoughts counts.
        unreadable: the score of a verdict without a match, or with a score outside 0-7.
        temperature: the judge's sampling temperature; 0 is greedy.
        max_tokens: maximum length of a verdict; None for the player's own limit.
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
        seed = turns[0].ask.key

        def written(pairs: list[Pair]) -> Tensor:
            asks = [
                Ask("judge", user(judge_prompt(self.prompt, pair)), key=f"{seed}/judge/{i}")
                for i, pair in enumerate(pairs)
            ]
            verdicts = [self.read(reply.text) for reply in judge.act(asks)]
            self.metrics = {"unreadable": sum(v is None for v in verdicts) / len(verdicts)}
            return torch.tensor([self.unreadable if v is None else v for v in verdicts])

        return score_deduplicated(turns, written)

    def read(self, verdict: str) -> float | None:
        """The score in a verdict, with the judge's thoughts ignored; None if there is none from 0 to 7."""
        score = last_match(self.pattern, said(verdict))
        value = float(score) if score is not None and re.fullmatch(r"[0-9]{1,9}", score) else None
        return value if value is not None and value <= TOP else None
