"""Teachers who are wrong about a share of the questions, always the same ones: data to test filters with.

Functions for `players.teacher.answer`, like `selfplay.players.scripted.right`. A question is noisy by a hash, so what
a filter kept can be compared with what is clean (`noisy`).
"""

from random import Random

from selfplay.core import SelfplayError
from selfplay.options import Seed, Share
from selfplay.tasks.split import check_share, is_held_out
from selfplay.tasks.task import Task, demonstration
from selfplay.tasks.tiny_world import parse

TRIES = 1000  # other questions whose answers are tried


def noisy(question: str, share: Share, seed: Seed = 0) -> bool:
    """Whether a question is among the noisy ones, of `swapped` and of `habitual` alike.

    Args:
        question: the question.
        share: the fraction of noisy questions.
        seed: chooses them.
    """
    check_share("players.teacher.answer.share", share)
    return is_held_out(f"{seed}/noise/{question}", share)


def swapped(question: str, task: Task, share: Share, seed: Seed = 0) -> str:
    """The teacher's answer to a question; if it is noisy, the answer to another question, which is wrong here.

    Args:
        question: the question.
        task: see `selfplay.tasks`.
        share: the fraction of noisy questions.
        seed: chooses them, and their answers.

    Raises:
        SelfplayError: the task has no answer to the question, or no other question with a different answer.
    """
    right = demonstration(question, task)
    if not noisy(question, share, seed):
        return right
    rng, item = Random(f"{seed}/swapped/{question}"), task.item(question)
    for _ in range(TRIES):
        other = demonstration(task.draw(rng), task)
        if other != right and not (task.judges and item is not None and task.correct(item, other) >= 1):
            return other
    raise SelfplayError(
        f"{TRIES} other questions of {type(task).__name__} have the same answer as '{question[:80]}', so answers "
        "cannot be swapped; use a task with different answers, or share=0"
    )


def habitual(question: str, task: Task, share: Share, seed: Seed = 0) -> str:
    """The teacher's answer to a question; if it is noisy, the typical mistake of the tiny world's family.

    The embedded model was trained to make these mistakes, so a filter by its surprisal must prefer them.

    Args:
        question: the question.
        task: see `selfplay.tasks`.
        share: the fraction of noisy questions.
        seed: chooses them.

    Raises:
        SelfplayError: the task has no answer to the question, or it is none of the tiny world.
    """
    right, known = demonstration(question, task), parse(question)
    if known is None:
        raise SelfplayError(
            f"'{question[:80]}' is not a question of the tiny world, whose mistakes are known; use "
            "selfplay.tasks.noise.swapped with other tasks"
        )
    return known.mistake if noisy(question, share, seed) else right
