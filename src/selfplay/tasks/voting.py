"""The majority of several answers."""

from collections import Counter
from collections.abc import Sequence


def majority(answers: Sequence[str]) -> str:
    """The commonest answer, of equally common ones the greatest as a string; "" if all are empty.

    Empty answers do not vote. The rule for ties is that of the code of multiagent finetuning (2501.05707).
    """
    counts = Counter(filter(None, answers))
    return max(counts, key=lambda answer: (counts[answer], answer), default="")
