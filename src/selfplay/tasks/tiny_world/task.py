"""The tiny world as a task: the embedded model's questions, with exact answers."""

from collections.abc import Sequence
from random import Random

from selfplay.core import at_least
from selfplay.options import Count, Seed
from selfplay.tasks.task import Item, Task
from selfplay.tasks.tiny_world.questions import Question, draw_text, held_out, is_held_out, parse


class TinyWorld(Task):
    """The questions of `selfplay.tasks.tiny_world`; any text in one of its wordings is recognized, whoever wrote it.

    Args:
        per_cell: held-out questions for each family and level.
        seed: random seed of the held-out questions.

    Raises:
        SelfplayError: a family and level has too few held-out questions.
    """

    def __init__(self, per_cell: Count = 12, seed: Seed = 0) -> None:
        at_least(1, **{"task.per_cell": per_cell})
        self._held_out = [_item(question) for question in held_out(per_cell, seed)]

    def draw(self, rng: Random) -> str:
        return draw_text(rng)

    def held_out(self) -> Sequence[Item]:
        return self._held_out

    def holds_out(self, question: str) -> bool:
        found = parse(question)
        return found is not None and is_held_out(found)

    def item(self, question: str) -> Item | None:
        found = parse(question)
        return None if found is None else _item(found)

    def correct(self, item: Item, reply: str) -> float:
        return float(reply == item.answer)

    def answer_in(self, reply: str) -> str:
        return reply


def _item(question: Question) -> Item:
    return Item(question.text, question.answer, {"families": question.family, "levels": str(question.level)})
