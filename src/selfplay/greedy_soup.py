"""Which models to put into a soup: greedily, by accuracy on validation questions (2203.05482, recipe 1)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TypeVar

from omegaconf import OmegaConf

from selfplay.building import make
from selfplay.console import say
from selfplay.core import Policy, SelfplayError
from selfplay.evaluations.answers import answers
from selfplay.models.averages import average
from selfplay.runs.players import trusted_run
from selfplay.tasks.task import Item, Task

T = TypeVar("T")
TRIES = 50  # draws per validation question


def greedy(models: Sequence[T], accuracy: Callable[[Sequence[T]], float]) -> tuple[list[T], float]:
    """Start with the best model; add each of the others, best first, if the accuracy of the soup does not fall.

    Args:
        models: the candidates, at least one; the first wins ties.
        accuracy: of the soup of some models, with equal weights.

    Returns:
        The models of the soup, in the order of their choice, and its accuracy.
    """
    alone = [accuracy([model]) for model in models]
    first, *others = sorted(range(len(models)), key=lambda i: -alone[i])
    chosen, best = [models[first]], alone[first]
    for other in others:
        found = accuracy([*chosen, models[other]])
        if found >= best:
            chosen, best = [*chosen, models[other]], found
    return chosen, best


def ingredients(folders: Sequence[Path], run: Path, questions: int, trusted: Sequence[str]) -> list[Path]:
    """The weight folders that the greedy rule chooses.

    The questions are drawn from the training questions of the run's task, never from its held-out ones.

    Args:
        folders: the candidates, which `average` can average.
        run: a run whose config has the player and the task.
        questions: number of validation questions.
        trusted: packages whose code the run's config may call.

    Raises:
        SelfplayError: the task has no answers, or fewer questions.
    """
    config = trusted_run(run, trusted).config
    task: Task = make(config.task, "task")
    items = validation(task, questions)

    def accuracy(some: Sequence[Path]) -> float:
        with TemporaryDirectory(prefix="selfplay-soup-") as place:
            average(some, [1 / len(some)] * len(some), Path(place))
            player = OmegaConf.merge(config.player, {"path": place})
            player.lora = None  # an adapter's folder holds its own config
            policy: Policy = make(player, "player")
        texts = answers(policy.with_temperature(0.0), [item.question for item in items], "validation")
        found = fmean(task.correct(item, text) for item, text in zip(items, texts, strict=True))
        say(f"{found:.4f} {' + '.join(str(folder) for folder in some)}")
        return found

    return greedy(folders, accuracy)[0]


def validation(task: Task, count: int) -> list[Item]:
    """`count` different training questions of a task, always the same.

    Raises:
        SelfplayError: the task has no answers, or fewer questions.
    """
    if not task.judges:
        raise SelfplayError(f"--greedy needs answers, but {type(task).__name__} has none; average without it")
    found: dict[str, Item] = {}
    for i in range(TRIES * count):
        item = task.item(task.draw(Random(f"validation/{i}")))
        if item is not None:
            found.setdefault(item.question, item)
        if len(found) == count:
            return list(found.values())
    raise SelfplayError(f"--greedy is {count}, but {type(task).__name__} has only {len(found)} questions; lower it")
