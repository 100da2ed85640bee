"""Round-robin tournaments of a population, by playing games or by enumeration."""

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

SIDE_BY_SIDE = 8192  # episodes per call of `play`


@dataclass(frozen=True)
class Arena:
    """The setting of a tournament: a game, its referees, and the players outside the population.

    Attributes:
        game: the game.
        seated: role -> name; roles outside `learner_roles` are filled from `others`.
        learner_roles: the roles filled by the population, at least two.
        others: name -> player, for the remaining roles.
        referees: score name -> referee, for games paid by scores.
        judges: the policies "learner" and "reference", passed to the referees.

    Raises:
        SelfplayError: there are fewer than two `learner_roles`.
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
    """Estimate the meta-game by playing every ordered pairing, self-play included, in batches.

    In a game of the pairing (i, j), i fills one of `learner_roles`, in rotation, and j fills the others.

    Args:
        arena: the setting.
        players: the population, by name.
        games: games per ordered pairing, rounded up to a multiple of the number of `learner_roles` to balance them.
        seed: random seed.

    Raises:
        SelfplayError: there are fewer than 2 games per pairing, or `play` or `score_and_pay` fails.
    """
    at_least(2, games=games)
    games += -games % len(arena.learner_roles)
    meetings = list(_meetings(arena, list(players.values()), games, seed))
    return from_games(list(players), meetings, seed, len(arena.learner_roles))


def _meetings(arena: Arena, players: Sequence[Player], games: int, seed: int) -> Iterator[Meeting]:
    n, count = len(players), len(players) ** 2 * games
    by_name = {**arena.others, **{_key(i): player for i, player in enumerate(players)}}

    def pairing_of(index: int) -> tuple[int, int, str]:
        pairing, turn = divmod(index, games)
        return *divmod(pairing, n), arena.learner_roles[turn % len(arena.learner_roles)]

    def seat(index: int) -> Seats:
        i, j, mine = pairing_of(index)
        return {**arena.seated, **{role: _key(i if role == mine else j) for role in arena.learner_roles}}

    for start in range(0, count, SIDE_BY_SIDE):
        indices = range(start, min(start + SIDE_BY_SIDE, count))
        episodes = play(arena.game, by_name, indices, f"{seed}/crossplay", seat)
        score_and_pay(arena.game, episodes, arena.referees, arena.judges)
        for episode in episodes:
            yield _meeting(*pairing_of(episode.index), _paid(arena, episode))


def _key(place: int) -> str:
    """An internal player name that cannot clash with a configured one."""
    return f"#{place}"


def _paid(arena: Arena, episode: Episode) -> dict[str, float]:
    paid = earned(episode)
    for role in arena.learner_roles:
        if role not in paid:
            raise SelfplayError(
                f"{type(arena.game).__name__} has no payoff for the role '{role}' in an episode that never asked it; "
                "make the game return a payoff for every role"
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
    """The exact meta-game from expectations over the game tree, and each player's NashConv in the full game.

    Args:
        arena: the setting.
        players: the population, by name.
        limit: the maximum number of tree nodes.

    Returns:
        The meta-game, and name -> NashConv; None in place of the latter if a role has imperfect recall.

    Raises:
        SelfplayError: the game cannot be enumerated, or a player cannot give option probabilities.
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
