"""ROUGE-L: the longest common subsequence of the words of two texts.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """ROUGE-L of two texts: the length of their longest common subsequence of words, divided in three ways.

    Attributes:
        precision: by the first text's length.
        recall: by the second text's length.
    """

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """The harmonic mean of both."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def most(self) -> float:
        """The larger of precision and recall, which is at least `f`."""
        return max(self.precision, self.recall)


def words(text: str) -> list[str]:
    """The letters and digits of a text in lower case, split at everything else."""
    return WORD.findall(text.lower())


def rouge_l(text: str, other: str) -> Overlap:
    """ROUGE-L of a text with another.

    A text without words overlaps fully with one that is equal up to white space, and not at all with any other.
    """
    mine, theirs = words(text), words(other)
    if not mine or not theirs:
        same = float(text.split() == other.split())
        return Overlap(same, same)
    common = common_subsequence(mine, theirs)
    return Overlap(common / len(mine), common / len(theirs))


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit i of the state is 0 where the length for the first i + 1 items of `one` exceeds that for the first i
    (bit-parallel, after Crochemore et al. 2001).
    """
    places: dict[str, int] = {}
    for i, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(one)) - 1
    state = full
    for item in other:
        matched = state & places.get(item, 0)
        state = (state + matched | state - matched) & full
    return len(one) - state.bit_count()
