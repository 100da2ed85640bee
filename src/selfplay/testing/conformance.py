"""`check_game`: checks all required properties of a game."""

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
    """Coverage of the checks of a game that passed.

    Attributes:
        game: name of the game's class.
        episodes: number of episodes played for each property.
        turns: total number of turns in these episodes.
        nodes: number of histories of the whole game; None if it was not enumerated.
        forgets: roles without perfect recall; empty if the game was not enumerated.
        not_enumerated: why the game was not enumerated; "" if it was.
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
    """Check all properties that a game must have, and return the coverage of the checks.

    Args:
        game: the game to check; the checks do not modify it.
        episodes: number of episodes played in parallel for each property.
        again: a second game constructed with the same arguments, which must play identically; None plays `game` again.
        players: role -> player, for roles where random text would end every episode at once; replies must depend only
            on the ask's key. By default, "chance" samples by its options' weights, and a role takes one of its options,
            or one of the moves in brackets in its prompt, or replies with a short random text.
        scores: name -> upper bound of the scores that the game's `payoffs` reads, sampled from 0 to the bound for every
            turn of its `judged` roles; None for "reward" up to 1 and "quality" up to 7.
        nodes: the largest number of histories for which the game is enumerated.

    Raises:
        SelfplayError: the game lacks a property; the message names the game, what it did, and the remedy.
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
