"""A model that engineers its own training data: LANCE (2412.15151)."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated

from selfplay.core import Ask, Episode, Game, Play, Reply, at_least, user
from selfplay.options import Count, Expression, Name, Number, Positive, Range, Share
from selfplay.tasks.overlap import rouge_l
from selfplay.thoughts import last_match, said

Reviews = Generator[list[Ask], list[Reply], list[float]]


@dataclass
class Pairs:
    """The questions and answers of an episode, in the order in which they were written.

    Attributes:
        questions, answers: texts.
        scores: the mean review of each, once it is reviewed.
    """

    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, question: str, answer: str) -> None:
        """Add a pair that is not yet reviewed."""
        self.questions.append(question)
        self.answers.append(answer)


class Engineer(Game):
    """The Solver answers a question of Nature's; the review decides which data are written around it.

    1. The Solver answers the question; `reviews` replies of "reviewer" score the pair, and their mean counts.
    2. Above `threshold` the Solver writes `new` worse answers behind the prompt `spoil`. They are
       learnt behind the question itself, as what is not preferred.
    3. Otherwise "asker" writes `new` questions of the same kind. Those that are not too similar to the question or to
       an earlier new one, and are long enough, are answered by the Solver `answers` times each.
    4. All new pairs are reviewed.

    A turn of the Solver earns its pair's mean review, 0 if no review is readable. All answers to a question are one
    group. So supervised learning on turns above a score and pairs that are a score apart make LANCE's data:
    `update.parts.sft.keep` and `update.parts.preferences.pairs` of `update=stages`. Other roles earn 0.

    Args:
        review: the reviewer's prompt, with {question} and {answer}.
        spoil: the prompt for worse answers, with {question} and, if wanted, {other}, another question of Nature's.
        ask: the asker's prompt, with an optional {question}.
        pattern: regular expression whose only group is the score in a review; its last match counts.
        most: the highest score; a review without a number from 0 to it is not readable.
        threshold: reviews above it keep the question. LANCE has 7 of 10.
        reviews: number of reviews of a pair.
        new: number of worse answers, or of new questions.
        answers: answers to each new question.
        similar: new questions with a larger ROUGE-L precision, recall or F-measure are dropped.
        words: the least number of words of a new question.
    """

    roles = ("chance", "solver", "reviewer", "asker")
    judged = ("solver",)

    def __init__(
        self,
        review: Name,
        spoil: Name,
        ask: Name,
        pattern: Annotated[str, Expression(1)] = r"(\d+(?:\.\d+)?)",
        most: Positive = 10.0,
        threshold: Number = 7.0,
        reviews: Count = 3,
        new: Count = 4,
        answers: Count = 4,
        similar: Share = 0.7,
        words: Annotated[int, Range(0, 1000)] = 5,
    ) -> None:
        at_least(1, **{"game.reviews": reviews, "game.new": new, "game.answers": answers})
        self.review, self.spoil, self.ask, self.pattern = review, spoil, ask, re.compile(pattern)
        self.most, self.threshold, self.reviews = most, threshold, reviews
        self.new, self.answers = new, answers
        self.similar, self.words = similar, words

    def play(self) -> Play:
        question, other = [reply.text for reply in (yield [Ask("chance")] * 2)]
        pairs = Pairs()
        [answer] = yield [Ask("solver", user(question), group=question)]
        pairs.add(question, answer.text)
        pairs.scores += yield from self._reviewed(pairs)
        if pairs.scores[0] > self.threshold:
            messages = user(_filled(self.spoil, question=question, other=other))
            worse = [Ask("solver", messages, group=question, learnt_prompt=user(question))] * self.new
            for reply in (yield worse):
                pairs.add(question, reply.text)
        else:
            asked = yield [Ask("asker", user(_filled(self.ask, question=question)))] * self.new
            if kept := self.kept([question, *(reply.text for reply in asked)]):
                questions = [text for text in kept for _ in range(self.answers)]
                replies = yield [Ask("solver", user(text), group=text) for text in questions]
                for text, reply in zip(questions, replies, strict=True):
                    pairs.add(text, reply.text)
        pairs.scores += yield from self._reviewed(pairs)
        return None

    def kept(self, questions: Sequence[str]) -> list[str]:
        """The questions after the first that are long enough and similar to neither the first nor a kept one."""
        found = [questions[0]]
        for text in questions[1:]:
            near = any(rouge_l(text, earlier).most > self.similar for earlier in found)
            if not near and len(text.split()) >= self.words:
                found.append(text)
        return found[1:]

    def payoffs(self, episode: Episode) -> list[float]:
        solver = [i for i, turn in enumerate(episode.turns) if turn.ask.role == "solver"]
        reviews = [self._read(turn.reply.text) for turn in episode.turns if turn.ask.role == "reviewer"]
        paid = [0.0] * len(episode.turns)
        for place, i in enumerate(solver):
            paid[i] = _mean(reviews[place * self.reviews : (place + 1) * self.reviews])
        return paid

    def _reviewed(self, pairs: Pairs) -> Reviews:
        """Have the pairs reviewed that are not yet; return their scores."""
        new = range(len(pairs.scores), len(pairs.answers))
        if not new:
            return []
        prompts = [_filled(self.review, question=pairs.questions[i], answer=pairs.answers[i]) for i in new]
        replies = yield [Ask("reviewer", user(prompt)) for prompt in prompts for _ in range(self.reviews)]
        scores = [self._read(reply.text) for reply in replies]
        return [_mean(scores[i * self.reviews : (i + 1) * self.reviews]) for i in range(len(new))]

    def _read(self, review: str) -> float | None:
        """The score in a review, or None."""
        found = last_match(self.pattern, said(review))
        score = None if found is None else float(found)
        return score if score is not None and 0 <= score <= self.most else None


def _mean(scores: Sequence[float | None]) -> float:
    """The mean of the readable scores; 0 if there are none."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else 0.0


def _filled(template: str, **values: str) -> str:
    """Fill in a prompt; placeholders inside a value are not expanded."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
