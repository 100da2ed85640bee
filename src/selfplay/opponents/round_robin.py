"""Everybody against everybody: the games of a population, played or enumerated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from selfplay.core import Episode, Game, Player, Policy, Referee, SelfplayError, at_least
from selfplay.opponents.matchmaker import Seats, check_learner_roles
from selfplay.opponents.table import earned
from selfplay.rollout import play, score_and_pay
from selfplay.theory.exploitability import nash_conv
from selfplay.theory.meta_game import Meeting, MetaGame, from_expectations, from_games
from selfplay.theory.strategies import flat, histories, strategy_of, unflat
from selfplay.theory.tree import enumerate_game

SIDE_BY_SIDE = 8192  # episodes in one call of `play`


@dataclass(frozen=True)
class Arena:
    """Where a population meets: a game, and everybody in it who is not of the population.

    Attributes:
        game: the rules.
        seated: role -> name; the roles of `learner_roles` are the population's, the others belong to `others`.
        learner_roles: the roles that the population plays, at least two.
        others: name -> player, for the other roles.
        referees: score name -> referee, where the game pays by scores.
        judges: "learner" and "reference", for the referees.

    Raises:
        SelfplayError: fewer than two roles are learner_roles.
    """

    game: Game
    seated: Seats
    learner_roles: tuple[str, ...]
    others: Mapping[str, Player]
    referees: Mapping[str, Referee]
    judges: Mapping[str, Policy]

    def __post_init__(self) -> None:
        check_learner_roles(self.learner_roles)


def played(arena: Arena, players: Mapping[str, Player], games: int, seed: int) -> MetaGame:
    """Play every ordered pairing, everybody against itself included, all side by side.

    In the games of (i, j), i has one of the learner_roles roles, which take turns, and j the rest of them.

    Args:
        players: the population, by name.
        games: of each ordered pairing; rounded up to a multiple of the learner_roles roles, so that none counts more.
        seed: of the luck.

    Raises:
        SelfplayError: fewer than 2 games, or what `play` and `score_and_pay` raise.
    """
    at_least(2, games=games)
    games += -games % len(arena.learner_roles)
    meetings = list(_meetings(arena, list(players.values()), games, seed))
    return from_games(list(players), meetings, seed, len(arena.learner_roles))


def _meetings(arena: Arena, players: Sequence[Player], games: int, seed: int) -> Iterator[Meeting]:
    n, count = len(players), len(players) ** 2 * games
    everybody = {**arena.others, **{_key(i): player for i, player in enumerate(players)}}

    def who(index: int) -> tuple[int, int, str]:
        pairing, turn = divmod(index, games)
        return *divmod(pairing, n), arena.learner_roles[turn % len(arena.learner_roles)]

    def seat(index: int) -> Seats:
        i, j, mine = who(index)
        return {**arena.seated, **{role: _key(i if role == mine else j) for role in arena.learner_roles}}

    for start in range(0, count, SIDE_BY_SIDE):
        indices = range(start, min(start + SIDE_BY_SIDE, count))
        episodes = play(arena.game, everybody, indices, f"{seed}/crossplay", seat)
        score_and_pay(arena.game, episodes, arena.referees, arena.judges)
        for episode in episodes:
            yield _meeting(*who(episode.index), _paid(arena, episode))


def _key(place: int) -> str:
    """A name within the games, that no config gives to anybody."""
    return f"#{place}"


def _paid(arena: Arena, episode: Episode) -> dict[str, float]:
    paid = earned(episode)
    for role in arena.learner_roles:
        if role not in paid:
            raise SelfplayError(
                f"{type(arena.game).__name__} paid the role '{role}' nothing in an episode, as it was not asked; "
                "let the game return what every role gets"
            )
    return {role: paid[role] for role in arena.learner_roles}


def _meeting(i: int, j: int, mine: str, paid: Mapping[str, float]) -> Meeting:
    rest = [gained for role, gained in paid.items() if role != mine]
    if i == j:
        own = mean(paid.values())
        return Meeting(i, j, own, own, 0.5)
    score = mean(0.5 * (1.0 + float(np.sign(paid[mine] - other))) for other in rest)
    return Meeting(i, j, paid[mine], mean(rest), score)


def enumerated(
    arena: Arena, players: Mapping[str, Player], limit: int = 1_000_000
) -> tuple[MetaGame, dict[str, float] | None]:
    """The same without a game: expectations over the whole game tree, and each player's NashConv in the full game.

    Args:
        players: the population, by name.
        limit: the most nodes of the tree.

    Returns:
        The meta-game; name -> NashConv, or None where a role of the game forgets, so that none can be computed.

    Raises:
        SelfplayError: the game cannot be enumerated, or somebody cannot say how likely each option is.
    """
    tree = enumerate_game(arena.game, limit)
    fixed = {role: arena.others[name] for role, name in arena.seated.items() if name in arena.others}
    seats = [{role: fixed.get(role, player) for role in tree.roles} for player in players.values()]
    vectors = [flat(tree, strategy_of(tree, seat)) for seat in seats]
    owner = np.repeat(tree.owner, tree.sizes)
    rows = [tree.roles.index(role) for role in arena.learner_roles]
    n, k = len(players), len(rows)
    alone, rest, scores = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        for mine in rows:
            choices = np.append(np.where(owner == mine, vectors[i], vectors[j]), 1.0)
            likely = histories(tree, choices)[tree.ends]
            others = [row for row in rows if row != mine]
            alone[i, j] += tree.returns[mine] @ likely / k
            rest[i, j] += tree.returns[others].mean(0) @ likely / k
            wins = 0.5 * (1.0 + np.sign(tree.returns[mine] - tree.returns[others])).mean(0)
            scores[i, j] += wins @ likely / k
    payoffs, wins, scale = (alone + rest.T) / 2, (scores + 1.0 - scores.T) / 2, float(np.abs(tree.returns).max())
    meta = from_expectations(list(players), payoffs, wins, k, scale)
    if tree.forgets:
        return meta, None
    return meta, {
        name: nash_conv(tree, unflat(tree, vector)).value for name, vector in zip(players, vectors, strict=True)
    }
