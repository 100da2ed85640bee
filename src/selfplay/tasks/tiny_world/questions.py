"""Questions of the tiny world: sampling, parsing, and the split into training and held-out questions."""

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
DRAWS_PER_QUESTION = 1000  # samples after which a held-out cell counts as exhausted
LEVEL_WEIGHTS = (0.32, 0.30, 0.26, 0.12)  # sampling probabilities of levels 1-4 if none is given


@dataclass(frozen=True)
class Question:
    """A question of this world: text, family, level, operands, correct answer and typical mistake."""

    text: str
    family: str
    level: int
    operands: tuple[tuple[str, str], ...]
    answer: str
    mistake: str

    @property
    def kind(self) -> str:
        """The kind of answer: "number", "letters" or "yesno"."""
        return FAMILIES[self.family].kind


def _pattern(wording: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", wording)
    return re.compile("".join(f"(?P<{p}>{FIELDS[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


_PATTERNS = tuple((family, _pattern(wording)) for family in FAMILIES.values() for wording in family.wordings)


def _question(family: Family, args: Mapping[str, str], text: str, level: int) -> Question:
    return Question(text, family.name, level, tuple(sorted(args.items())), family.answer(args), family.mistake(args))


@lru_cache(maxsize=65536)
def parse(text: str) -> Question | None:
    """Parse a text; None if it is not exactly a question of this world, in wording and operands."""
    for family, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        level = family.level(match.groupdict()) if match else None
        if match and level is not None:
            return _question(family, match.groupdict(), text, level)
    return None


def is_held_out(question: Question) -> bool:
    """Whether the question is held out, by a hash of its operands: an eighth, independent of the wording."""
    key = f"{question.family}|{question.operands}"
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


def draw(rng: Random, family: str | None = None, level: int | None = None, heldout: bool = False) -> Question:
    """Sample a training question, or a held-out one; family and level are random if not given."""
    chosen = FAMILIES[family or rng.choice(tuple(FAMILIES))]
    level = level or rng.choices(LEVELS, LEVEL_WEIGHTS)[0]
    while True:
        args = chosen.sample(rng, level)
        question = _question(chosen, args, rng.choice(chosen.wordings).format(**args), level)
        if is_held_out(question) == heldout:
            return question


def draw_text(rng: Random) -> str:
    """The text of a random training question, as Nature asks in the data-driven baseline."""
    return draw(rng).text


def held_out(per_cell: int = 12, seed: int = 0) -> list[Question]:
    """The held-out questions: `per_cell` for each family and level (12 x 12 x 4 = 576), all different.

    Raises:
        SelfplayError: a family and level has too few.
    """
    return list(_held_out(per_cell, seed))


@lru_cache(maxsize=8)
def _held_out(per_cell: int, seed: int) -> tuple[Question, ...]:
    """Cached for all tasks, probes and evaluations of a run."""
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
                    f"task.per_cell is {per_cell}, but {family} at level {level} seems to have only {len(cell)} "
                    f"held-out questions; lower it, for example to 20"
                )
            questions |= cell
    return tuple(questions.values())
