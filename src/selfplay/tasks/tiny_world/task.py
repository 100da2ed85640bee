"""The tiny world as a task: the embedded model's questions, with exact answers."""

from collections.abc import Sequence
from random import Random
from typing import Any

from selfplay.core import SelfplayError, at_least
from selfplay.options import Count, Seed
from selfplay.tasks.task import Item, Task
from selfplay.tasks.tiny_world.families import FAMILIES
from selfplay.tasks.tiny_world.operands import LEVELS
from selfplay.tasks.tiny_world.questions import (
    LEVEL_WEIGHTS,
    Question,
    draw,
    draw_text,
    held_out,
    is_held_out,
    parse,
)


class TinyWorld(Task):
    """The questions of `selfplay.tasks.tiny_world`; any text in one of its wordings is recognized, whoever wrote it.

    Args:
        per_cell: held-out questions for each family and level.
        seed: random seed of the held-out questions.
        families: those of the training questions; None: all. Questions of all families are held out.
        levels: of the training questions, 1 to 4; None: all.

    Raises:
        SelfplayError: a family and level has too few held-out questions; there is no such family or level.
    """

    def __init__(
        self,
        per_cell: Count = 12,
        seed: Seed = 0,
        families: Sequence[str] | None = None,
        levels: Sequence[Count] | None = None,
    ) -> None:
        at_least(1, **{"task.per_cell": per_cell})
        self.families, self.levels = _some("families", families, tuple(FAMILIES)), _some("levels", levels, LEVELS)
        self._held_out = [_item(question) for question in held_out(per_cell, seed)]

    def draw(self, rng: Random) -> str:
        if (self.families, self.levels) == (tuple(FAMILIES), LEVELS):
            return draw_text(rng)
        weights = [LEVEL_WEIGHTS[LEVELS.index(level)] for level in self.levels]
        return draw(rng, rng.choice(self.families), rng.choices(self.levels, weights)[0]).text

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def holds_out(self, question: str) -> bool:
        found = parse(question)
        return found is not None and is_held_out(found)

    def item(self, question: str) -> Item | None:
        found = parse(question)
        return None if found is None else _item(found)

    def wordings(self, question: str) -> Sequence[str]:
        found = parse(question)
        if found is None:
            return (question,)
        return [wording.format(**dict(found.operands)) for wording in FAMILIES[found.family].wordings]

    def correct(self, item: Item, reply: str) -> float:
        return float(reply == item.answer)

    def answer_in(self, reply: str) -> str:
        return reply


def _some(name: str, given: Sequence[Any] | None, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those that are given, all of which are known; all for None."""
    if given is None:
        return known
    if not given or not set(given) <= set(known):
        raise SelfplayError(f"task.{name} is {list(given)}; name some of {', '.join(map(str, known))}")
    return tuple(one for one in known if one in given)


def _item(question: Question) -> Item:
    return Item(question.text, question.answer, {"families": question.family, "levels": str(question.level)})
