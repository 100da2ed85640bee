"""Whether a rule that learns from comparison has anything to compare, and whether a run learns at all.

A turn that is compared with itself alone has an advantage of exactly 0, whatever it is paid: such a set-up would run to
its end and teach nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from selfplay.core import Episode, Game, SelfplayError, Turn, Update
from selfplay.updates.advantages import centred, leave_one_out, preferred, standardised
from selfplay.updates.imitation import best
from selfplay.updates.kto import above_mean
from selfplay.updates.pairs import best_and_worst, bradley_terry, winners_and_losers

COMPARING = (  # within a group
    centred, standardised, leave_one_out, preferred, best, above_mean, best_and_worst, bradley_terry, winners_and_losers
)  # fmt: skip
RULES = ("advantage", "keep", "label", "pairs")  # the options of updates that hold one of them
SILENT_STEPS = 5


def compares(update: Update) -> bool:
    """Whether the update learns from what turns of a group are paid beside one another."""
    rules = [getattr(update, name, None) for name in RULES]
    return any(getattr(rule, "func", rule) in COMPARING for rule in rules if callable(rule))


def check_answers(game: Game, update: Update, roles: Sequence[str]) -> None:
    """Raise SelfplayError where a game asks for one answer, which would be compared with nothing.

    Args:
        roles: the learner's.
    """
    answering = [role for role in roles if role in game.judged and _weight(update, role) > 0]
    if answering and getattr(game, "answers", None) == 1 and compares(update) and _by_group(update):
        raise SelfplayError(_alone(answering[0], "game.answers is 1", "game.answers=2 or more", update))


def check_batch(episodes: Sequence[Episode], turns: Sequence[tuple[Episode, Turn]], update: Update) -> None:
    """Raise SelfplayError where, by the first batch, each turn of a role is compared with itself alone.

    Args:
        episodes: all of the batch.
        turns: what is learnt, with their episodes.
    """
    if not compares(update) or not all(episode.sampled for episode in episodes):
        return
    for role in dict.fromkeys(turn.ask.role for _, turn in turns):
        if _weight(update, role) == 0:
            continue
        mine = [(episode, turn) for episode, turn in turns if turn.ask.role == role]
        across = all(turn.ask.group is None for _, turn in mine)
        sizes = Counter(None if t.ask.group is None else (e.index, t.ask.group) for e, t in mine)
        if len(episodes) == 1 and (across or (len(mine) == 1 and not _by_group(update))):
            raise SelfplayError(_alone(role, "episodes is 1", "episodes=2 or more", update))
        if _by_group(update) and len(mine) > 1 and max(sizes.values()) == 1:
            raise SelfplayError(_alone(role, "each of its turns is the only one of its group", "larger groups", update))


class Silence:
    """Counts the steps in a row whose gradient was exactly 0."""

    def __init__(self) -> None:
        self.steps = 0

    def after(self, metrics: Mapping[str, float]) -> str | None:
        """Right after an update, with what it reported; what is to be told, once."""
        self.steps = self.steps + 1 if metrics.get("grad_norm") == 0 else 0
        if self.steps != SILENT_STEPS:
            return None
        return (
            f"note: the gradient was exactly 0 in the last {SILENT_STEPS} steps, so nothing is being learnt: all that "
            "is compared is paid alike, or nothing is kept (see the rewards in episodes.jsonl)"
        )


def _weight(update: Any, role: str) -> float:
    weights: Mapping[str, float] = getattr(getattr(update, "gradient_step", None), "role_weights", {})
    return weights.get(role, 1.0)


def _by_group(update: Update) -> bool:
    return getattr(update, "compare", "group") == "group"


def _alone(role: str, why: str, remedy: str, update: Update) -> str:
    return (
        f"the role '{role}' would learn nothing: {type(update).__name__} compares what turns of a group are paid, but "
        f"{why}; take {remedy}, or give the role no weight with update.role_weights.{role}=0"
    )
