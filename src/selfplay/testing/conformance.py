"""`check_game`: every property of a game, one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass

from selfplay.core import Game, Player, at_least
from selfplay.testing.observed import observed
from selfplay.testing.properties import (
    Trial,
    check_any_reply,
    check_declared,
    check_every_history,
    check_neighbours,
    check_payoffs,
    check_purity,
    check_roles_are_asked,
    check_seats,
)

SCORES = {"reward": 1.0, "quality": 7.0}


@dataclass(frozen=True)
class Conformance:
    """What was looked at of a game that keeps the rules.

    Attributes:
        game: the name of its class.
        episodes: how many were played for each property.
        turns: how many turns these had.
        nodes: histories of the whole game; None where it was not enumerated.
        forgets: the roles without perfect recall; nothing where the game was not enumerated.
        not_enumerated: why the game was not enumerated; "" where it was.
    """

    game: str
    episodes: int
    turns: int
    nodes: int | None
    forgets: tuple[str, ...]
    not_enumerated: str


def check_game(
    game: Game,
    *,
    episodes: int = 8,
    again: Game | None = None,
    players: Mapping[str, Player] | None = None,
    scores: Mapping[str, float] | None = None,
    nodes: int = 10_000,
) -> Conformance:
    """Check every property that a game must have; return what was looked at.

    Args:
        game: to be played; nothing of it is changed unless it changes itself.
        episodes: how many are played side by side for each property.
        again: a second game made of the same arguments, which must play the same; None plays `game` once more.
        players: by role, for seats in which random text would end every episode at once; a function of the ask's key
            alone. Without one, "chance" draws by its options' weights, and a role takes one of its options, or of the
            moves that its prompt names in brackets, or says a short random text.
        scores: name -> greatest value of the scores that the game's `payoffs` reads, drawn from 0 to that for every
            turn of its `judged` roles; None for "reward" up to 1 and "quality" up to 7.
        nodes: the most histories of a game that is enumerated.

    Raises:
        SelfplayError: at the first property that the game lacks, with the game, what it did, and the remedy.
    """
    at_least(1, episodes=episodes, nodes=nodes)
    for one in (game, *([] if again is None else [again])):
        check_declared(one)
    check_seats(game, players or {})
    trial = Trial(observed(game), observed(again or game), players or {}, dict(scores or SCORES), episodes)
    turns = check_roles_are_asked(trial)
    check_purity(trial)
    check_neighbours(trial)
    check_payoffs(trial)
    check_any_reply(trial)
    size, forgets, reason = check_every_history(trial, nodes)
    return Conformance(type(game).__name__, episodes, turns, size, forgets, reason)
