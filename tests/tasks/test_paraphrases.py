"""A redundant, skewed pool: how many questions there are, in which wordings, and of which families."""

from collections import Counter
from random import Random

import pytest

from selfplay.core import SelfplayError
from selfplay.tasks.arithmetic import Arithmetic
from selfplay.tasks.tiny_world import TinyWorld, is_held_out, parse
from selfplay.tasks.tiny_world.paraphrases import paraphrases


def test_each_question_occurs_in_every_wording() -> None:
    sample, rng = paraphrases(TinyWorld(1), clusters=40, skew=0.0, seed=1), Random(0)
    texts = {sample(rng) for _ in range(4000)}
    known = [parse(text) for text in texts]
    by_operands = Counter((question.family, question.operands) for question in known if question)
    assert len(texts) == 120 and set(by_operands.values()) == {3} and None not in known
    assert not any(is_held_out(question) for question in known if question)


def test_families_have_zipfs_shares() -> None:
    """The r-th of them 1 / r, up to the sampling of clusters: chi-square of 11 degrees of freedom below 31.3 (.1 %)."""
    clusters = 3000
    sample, rng = paraphrases(TinyWorld(1), clusters=clusters, skew=1.0, seed=2), Random(0)
    found = Counter(question.family for question in (parse(sample(rng)) for _ in range(30000)) if question)
    counts = sorted(found.values(), reverse=True)
    wanted = [30000 / rank / sum(1 / r for r in range(1, 13)) for rank in range(1, 13)]
    inflated = 1 + 30000 / clusters  # draws of one cluster are of one family
    assert sum((n - w) ** 2 / w for n, w in zip(counts, wanted, strict=True)) / inflated < 31.3
    assert paraphrases(TinyWorld(1), 9, seed=2)(Random(5)) == paraphrases(TinyWorld(1), 9, seed=2)(Random(5))
    some = paraphrases(TinyWorld(1, families=["sort"]), clusters=5)
    assert {question.family for question in (parse(some(rng)) for _ in range(50)) if question} == {"sort"}


def test_other_tasks_have_no_known_paraphrases() -> None:
    with pytest.raises(SelfplayError, match="the task is Arithmetic, whose paraphrases are not known; use task=world"):
        paraphrases(Arithmetic())
