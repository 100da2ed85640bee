"""The tiny world: families of short questions whose right answers are known exactly.

It is to this project what the fruit fly is to genetics: small enough that a model of 0.9 M parameters learns it in
minutes, rich enough that there are things it can do, things it does wrong out of habit, and things it cannot do.
"""

from selfplay.tasks.tiny_world.families import FAMILIES, Family
from selfplay.tasks.tiny_world.operands import LEVELS
from selfplay.tasks.tiny_world.questions import Question, draw, draw_text, held_out, is_held_out, parse
from selfplay.tasks.tiny_world.rubric import SCORES, rubric
from selfplay.tasks.tiny_world.task import TinyWorld

__all__ = [
    "FAMILIES",
    "LEVELS",
    "SCORES",
    "Family",
    "Question",
    "TinyWorld",
    "draw",
    "draw_text",
    "held_out",
    "is_held_out",
    "parse",
    "rubric",
]
