"""The tiny world: families of short questions with exactly known answers.

It is small enough for a model of 0.9 M parameters to learn in minutes, and rich enough that the model answers some
questions correctly, makes habitual mistakes on others, and cannot answer the rest.
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
