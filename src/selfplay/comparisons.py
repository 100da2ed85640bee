"""Check that an update that compares turns has turns to compare, and that a run learns at all.

A turn that is compared only with itself has advantage exactly 0 whatever its payoff, so such a run would learn nothing.
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
RULES = ("advantage", "keep", "label", "pairs")  # options of updates that hold such a function
SILENT_STEPS = 5


def compares(update: Update) -> bool:
    """Whether the update compares the payoffs of the turns in a group."""
    rules = [getattr(update, name, None) for name in RULES]
    return any(getattr(rule, "func", rule) in COMPARING for rule in rules if callable(rule))


def check_answers(game: Game, update: Update, roles: Sequence[str]) -> None:
    """Raise SelfplayError if a game asks for a single answer, but the update compares answers.

    Args:
        game: the game.
        update: the learning rule.
        roles: the learner's roles.
    """
    for part in update.parts.values():
        check_answers(game, part, roles)
    answering = [role for role in roles if role in game.judged and _weight(update, role) > 0]
    if answering and getattr(game, "answers", None) == 1 and compares(update) and _by_group(update):
        raise SelfplayError(_alone(answering[0], "game.answers is 1", "game.answers=2 or more", update))


def check_batch(episodes: Sequence[Episode], turns: Sequence[tuple[Episode, Turn]], update: Update) -> None:
    """Raise SelfplayError if, in the first batch, each turn of a role is compared only with itself.

    Args:
        episodes: all episodes of the batch.
        turns: the learner's turns, with their episodes.
        update: the learning rule.
    """
    for part in update.parts.values():
        check_batch(episodes, turns, part)
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
            raise SelfplayError(_alone(role, "each of its turns is alone in its group", "larger groups", update))


class Silence:
    """Counts consecutive steps whose gradient was exactly 0."""

    def __init__(self) -> None:
        self.steps = 0

    def after(self, metrics: Mapping[str, float]) -> str | None:
        """Call after each update with its metrics; returns a note for the user, once."""
        self.steps = self.steps + 1 if metrics.get("grad_norm") == 0 else 0
        if self.steps != SILENT_STEPS:
            return None
        return (
            f"note: the gradient was exactly 0 in the last {SILENT_STEPS} steps, so nothing is being learnt: all "
            "compared payoffs are equal, or no turn is kept (see the rewards in episodes.jsonl)"
        )


def _weight(update: Any, role: str) -> float:
    weights: Mapping[str, float] = getattr(getattr(update, "gradient_step", None), "role_weights", {})
    return weights.get(role, 1.0)


def _by_group(update: Update) -> bool:
    return getattr(update, "compare", "group") == "group"


def _alone(role: str, why: str, remedy: str, update: Update) -> str:
    return (
        f"the role '{role}' would learn nothing: {type(update).__name__} compares the payoffs of the turns in a group, "
        f"but {why}; use {remedy}, or set its weight to 0 with update.role_weights.{role}=0"
    )
