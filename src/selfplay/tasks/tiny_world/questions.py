"""Questions of the tiny world: drawing them, recognising them, and the split that keeps the held-out ones held out."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from selfplay.core import SelfplayError
from selfplay.tasks.tiny_world.families import FAMILIES, Family
from selfplay.tasks.tiny_world.operands import LEVELS

FIELDS = {"a": r"\d{1,6}", "b": r"\d{1,6}", "ns": r"\d{1,4}(?: \d{1,4})+", "n": r"\d", "w": r"[a-z]+", "c": r"[a-z]"}
HELD_OUT_SHARE = 8  # one in this many sets of operands is held out
DRAWS_PER_QUESTION = 1000  # before a cell of the held-out questions is taken to be exhausted
LEVEL_WEIGHTS = (0.32, 0.30, 0.26, 0.12)  # how often levels 1-4 are drawn where nobody asks for one


@dataclass(frozen=True)
class Question:
    """A question of this world: its text, where it stands, its right answer and its typical wrong one."""

    text: str
    family: str
    level: int
    operands: tuple[tuple[str, str], ...]
    answer: str
    mistake: str

    @property
    def kind(self) -> str:
        """What the answer is made of: "number", "letters" or "yesno"."""
        return FAMILIES[self.family].kind


def _pattern(wording: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", wording)
    return re.compile("".join(f"(?P<{p}>{FIELDS[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


_PATTERNS = tuple((family, _pattern(wording)) for family in FAMILIES.values() for wording in family.wordings)


def _question(family: Family, args: Mapping[str, str], text: str, level: int) -> Question:
    return Question(text, family.name, level, tuple(sorted(args.items())), family.answer(args), family.mistake(args))


@lru_cache(maxsize=65536)
def parse(text: str) -> Question | None:
    """The question that a text asks, or None when it is not a question of this world (wording and operands exact)."""
    for family, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        level = family.level(match.groupdict()) if match else None
        if match and level is not None:
            return _question(family, match.groupdict(), text, level)
    return None


def is_held_out(question: Question) -> bool:
    """Whether the question's operands (in any wording) belong to the held-out eighth: a hash, the same everywhere."""
    key = f"{question.family}|{question.operands}"
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


def draw(rng: Random, family: str | None = None, level: int | None = None, heldout: bool = False) -> Question:
    """Draw a question, held-out or (the default) not; family and level as given, or by luck."""
    chosen = FAMILIES[family or rng.choice(tuple(FAMILIES))]
    level = level or rng.choices(LEVELS, LEVEL_WEIGHTS)[0]
    while True:
        args = chosen.sample(rng, level)
        question = _question(chosen, args, rng.choice(chosen.wordings).format(**args), level)
        if is_held_out(question) == heldout:
            return question


def draw_text(rng: Random) -> str:
    """The text of a question drawn by luck, never a held-out one: what Nature asks in the data-driven baseline."""
    return draw(rng).text


def held_out(per_cell: int = 12, seed: int = 0) -> list[Question]:
    """The held-out questions: `per_cell` for each family and level (12 x 12 x 4 = 576), all different.

    Raises:
        SelfplayError: a family and level has not so many.
    """
    return list(_held_out(per_cell, seed))


@lru_cache(maxsize=8)
def _held_out(per_cell: int, seed: int) -> tuple[Question, ...]:
    """Drawn once for all the tasks, probes and evaluations of a run."""
    questions: dict[str, Question] = {}
    for family in FAMILIES:
        for level in LEVELS:
            rng = Random(f"held-out/{seed}/{family}/{level}")
            cell: dict[str, Question] = {}
            for _ in range(DRAWS_PER_QUESTION * per_cell):
                question = draw(rng, family, level, heldout=True)
                cell[question.text] = question
                if len(cell) == per_cell:
                    break
            else:
                raise SelfplayError(
                    f"task.per_cell is {per_cell}, but {family} at level {level} has hardly more than {len(cell)} "
                    f"held-out questions; lower it, to 20 for example"
                )
            questions |= cell
    return tuple(questions.values())
