"""The tiny world: families of short questions whose right answers are known exactly.

It is to this project what the fruit fly is to genetics: small enough that a model of 0.9 M parameters learns it in
minutes, rich enough that there are things it can do, things it does wrong out of habit, and things it cannot do.
"""

from selfplay.world.families import FAMILIES, Family
from selfplay.world.operands import LEVELS
from selfplay.world.questions import Question, draw, draw_text, held_out, is_held_out, parse
from selfplay.world.rubric import SCORES, rubric

__all__ = [
    "FAMILIES",
    "LEVELS",
    "SCORES",
    "Family",
    "Question",
    "draw",
    "draw_text",
    "held_out",
    "is_held_out",
    "parse",
    "rubric",
]
