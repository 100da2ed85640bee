"""Training questions with many paraphrases and few of some families, to test the selection of data with."""

from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from random import Random

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, NotNegative, Seed
from selfplay.tasks.task import Task
from selfplay.tasks.tiny_world.families import FAMILIES
from selfplay.tasks.tiny_world.questions import draw
from selfplay.tasks.tiny_world.task import TinyWorld


def paraphrases(task: Task, clusters: Count = 256, skew: NotNegative = 1.0, seed: Seed = 0) -> Callable[[Random], str]:
    """A sampler of `clusters` questions of the tiny world, each in all of its family's wordings.

    A fixed order of the families is drawn; the r-th of them has a share proportional to r^-skew.

    Args:
        task: the tiny world, whose families are used.
        clusters: number of questions that differ in more than the wording.
        skew: exponent of the families' shares; 0 for equal ones.
        seed: of the questions and the order of families.

    Returns:
        For `players.nature.draw`: random numbers -> the text of a question. All wordings of a question are equally
        likely.

    Raises:
        SelfplayError: the task is not the tiny world.
    """
    at_least(1, clusters=clusters)
    if not isinstance(task, TinyWorld):
        raise SelfplayError(f"the task is {type(task).__name__}, whose paraphrases are not known; use task=world")
    order = list(task.families)
    Random(f"{seed}/families").shuffle(order)
    sums = list(accumulate((rank + 1) ** -skew for rank in range(len(order))))

    def cluster(number: int) -> list[str]:
        rng = Random(f"{seed}/cluster/{number}")
        question = draw(rng, order[bisect(sums, rng.random() * sums[-1])])
        operands = dict(question.operands)
        return [wording.format(**operands) for wording in FAMILIES[question.family].wordings]

    texts = [cluster(number) for number in range(clusters)]

    def sample(rng: Random) -> str:
        return rng.choice(rng.choice(texts))

    return sample
