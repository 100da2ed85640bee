"""The paper's seven-point quality rubric, adapted to the tiny world.

Language Self-Play (arXiv 2509.07414), Box 3: the sum of seven binary items, two on the question and five on the answer.
"""

import re

from selfplay.tasks.tiny_world.families import FAMILIES
from selfplay.tasks.tiny_world.questions import parse

SCORES = range(8)
_KINDS = {"number": r"\d+", "letters": r"[a-z]+", "yesno": r"yes|no"}
_OPENINGS = tuple(re.split(r"[ {]", w)[0] for f in FAMILIES.values() for w in f.wordings if not w.startswith("{"))


def rubric(question: str, answer: str) -> tuple[int, ...]:
    """The seven items (0 or 1 each); their sum is the score from 0 to 7.

    1 the task is recognizable, 2 the question is well formed, 3 the answer has the right kind, 4 at least half of its
    characters are right, 5 it is correct, 6 it is concise, 7 it has the right form (kind and length). Items 3-7 are 0
    if the question is not from this world, since the answer then cannot be judged.
    """
    parsed = parse(question)
    if parsed is None:
        return (int(question.split(" ")[0] in _OPENINGS), 0, 0, 0, 0, 0, 0)
    right = parsed.answer
    kind = re.fullmatch(_KINDS[parsed.kind], answer) is not None
    overlap = sum(x == y for x, y in zip(answer, right, strict=False))
    return (
        1,
        1,
        int(kind),
        int(2 * overlap >= max(len(right), len(answer))),
        int(answer == right),
        int(0 < len(answer) <= len(right) + 1),
        int(kind and len(answer) == len(right)),
    )
