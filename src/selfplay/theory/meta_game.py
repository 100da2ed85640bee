"""The empirical meta-game of a population: ratings, meta-Nash, exploitability and cycles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.core import SelfplayError
from selfplay.theory.cycles import Hodge, hodge, three_cycles
from selfplay.theory.intervals import as_list, bounded
from selfplay.theory.ratings import BradleyTerry, Elo, bradley_terry, elo
from selfplay.theory.symmetric import equilibrium
from selfplay.theory.zero_sum import Array, NashAverage, antisymmetrised

PRIOR = 0.1  # precision of the prior on Bradley-Terry ratings: a standard deviation of 550 Elo points
EXACT_GAMES = 128  # an exact win rate enters the Bradley-Terry fit as this many games
ROUNDING = 1e-9  # payoff differences below this fraction of the largest are ties
SAMPLED = "games played; 95 % intervals: Agresti-Coull, bounded by the lowest and highest return in any game"
EXACT = "enumeration of the game tree: exact up to rounding"


class Meeting(NamedTuple):
    """One game between the players with indices `first` and `second`, and their returns.

    The return of a player in several roles is the mean over them. `score` is 1 if `first` earned more and 1/2 for a
    draw, averaged over the roles of `second`.
    """

    first: int
    second: int
    gained: float
    lost_to: float
    score: float


@dataclass(frozen=True, eq=False)
class MetaGame:
    """Round-robin results of n players, averaged over the roles.

    Attributes:
        names: [n] player names.
        payoffs: [n, n] mean return of i against j; the diagonal is self-play.
        intervals: [n, n, 2] 95 % intervals of the payoffs, see `theory.intervals.bounded`; NaN if all returns in all
            games were equal, which leaves the spread unknown; None if the payoffs are exact.
        edge_intervals: [n, n, 2] the same for (payoffs - payoffs.T) / 2, the margin by which i beats j.
        noise: [n, n] sampling variance of (payoffs - payoffs.T) / 2; None if exact.
        win_rates: [n, n] fraction of games in which i earned more than j; a draw counts half.
        games: [n, n] int64 number of games behind each entry; 0 if exact.
        elo: sequential Elo ratings over the games in random order; None if no games were played.
        method: how the payoffs were measured.
        roles: number of roles that the players fill; with more than two, a game has several copies of i or of j.
    """

    names: tuple[str, ...]
    payoffs: Array
    intervals: Array | None
    edge_intervals: Array | None
    noise: Array | None
    win_rates: Array
    games: NDArray[np.int64]
    elo: Elo | None
    method: str
    roles: int = 2


def from_games(names: Sequence[str], meetings: Sequence[Meeting], seed: int = 0, roles: int = 2) -> MetaGame:
    """Estimate the meta-game from played games.

    Args:
        names: [n] player names.
        meetings: games, at least two for every pair and for every player against itself; either player may come first.
        seed: seed of the order in which the Elo ratings process the games.
        roles: as in `MetaGame`.

    Raises:
        SelfplayError: a pair, or a player and itself, met fewer than two times.
    """
    n = len(names)
    gains: list[list[list[float]]] = [[[] for _ in names] for _ in names]
    wins = np.zeros((n, n))
    for i, j, gained, lost_to, score in meetings:
        gains[i][j].append(gained)
        wins[i, j] += score
        if i != j:
            gains[j][i].append(lost_to)
            wins[j, i] += 1 - score
    games = np.array([[len(cell) for cell in row] for row in gains], dtype=np.int64)
    if games.min() < 2:
        i, j = (int(k) for k in np.argwhere(games < 2)[0])
        raise SelfplayError(f"{names[i]} and {names[j]} met {games[i, j]} times; play at least 2 games")
    arrays = [[np.array(cell) for cell in row] for row in gains]
    payoffs = np.array([[cell.mean() for cell in row] for row in arrays])
    low, high = min(cell.min() for row in arrays for cell in row), max(cell.max() for row in arrays for cell in row)
    intervals = np.array([[bounded(cell, low, high) for cell in row] for row in arrays])
    edges = [[(arrays[i][j] - arrays[j][i]) / 2 for j in range(n)] for i in range(n)]
    reach = (high - low) / 2
    edge_intervals = np.array([[bounded(cell, -reach, reach) for cell in row] for row in edges])
    noise = np.array([[cell.var(ddof=1) / len(cell) for cell in row] for row in edges])
    order = [(m.first, m.second, m.score) for m in meetings if m.first != m.second]
    Random(f"{seed}/elo").shuffle(order)
    rated = elo(order, n, k=16.0)
    return MetaGame(tuple(names), payoffs, intervals, edge_intervals, noise, wins / games, games, rated, SAMPLED, roles)


def from_expectations(
    names: Sequence[str], payoffs: Array, win_rates: Array, roles: int = 2, scale: float = 1.0
) -> MetaGame:
    """The meta-game of exact expected returns.

    Args:
        names: [n] player names.
        payoffs: [n, n] as in `MetaGame`, rounded here to 12 decimals in units of `scale`.
        win_rates: [n, n] as in `MetaGame`, rounded to 12 decimals.
        roles: as in `MetaGame`.
        scale: the largest absolute return of the game; rounded up to a power of two.
    """
    none, unit = np.zeros(payoffs.shape, dtype=np.int64), 2.0 ** np.ceil(np.log2(scale or 1.0))
    cut = np.round(payoffs / unit, 12) * unit + 0.0
    return MetaGame(tuple(names), cut, None, None, None, np.round(win_rates, 12), none, None, EXACT, roles)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Results of `analyse`.

    Attributes:
        ratings: Bradley-Terry ratings from the win rates; their standard errors are meaningless if the meta-game is
            exact.
        nash: a symmetric equilibrium of the payoffs; its `method` names the algorithm, and its `gap` is its
            exploitability within the population, 0 up to rounding. None with more than two roles: pairwise payoffs
            then do not determine the payoffs of a mixture.
        mean_returns: [n] mean payoff against all others.
        exploitability: [n] max over j of payoffs[j, i], minus payoffs[i, i] (0 in a zero-sum game): the gain of the
            population's best response to i over i's self-play. The maximum includes j = i, so it is at least 0.
        nemeses: [n] the maximising j; i itself if no other player does better.
        hodge: the Hodge decomposition of the payoffs.
        noise_share: the cyclic share expected from sampling noise alone; None if exact.
        cycles: (i, j, k) where i beats j, j beats k, and k beats i.
        clear_cycles: number of cycles in which none of the three intervals contains 0.
        strongest: the cycle with the largest minimum margin; None if there is no cycle.
    """

    ratings: BradleyTerry
    nash: NashAverage | None
    mean_returns: Array
    exploitability: Array
    nemeses: tuple[int, ...]
    hodge: Hodge
    noise_share: float | None
    cycles: tuple[tuple[int, int, int], ...]
    clear_cycles: int
    strongest: tuple[int, int, int] | None

    @property
    def order(self) -> list[int]:
        """The players from the highest rating to the lowest."""
        return sorted(range(len(self.nemeses)), key=lambda i: (-round(float(self.ratings.ratings[i]), 9), i))


def analyse(meta: MetaGame) -> Analysis:
    """Compute ratings, equilibrium, exploitability and cycles of a meta-game.

    Raises:
        SelfplayError: fewer than two players.
    """
    n = len(meta.names)
    if n < 2:
        raise SelfplayError(
            f"the population is {', '.join(meta.names) or 'empty'}; cross-play needs at least 2 players"
        )
    counts = np.where(meta.games > 0, meta.games, EXACT_GAMES) * meta.win_rates
    np.fill_diagonal(counts, 0.0)
    own = np.diag(meta.payoffs)
    gains = meta.payoffs.max(0) - own
    gains[gains <= ROUNDING * np.abs(meta.payoffs).max()] = 0.0
    nemeses = np.where(gains > 0, meta.payoffs.argmax(0), np.arange(n))
    edges = antisymmetrised(meta.payoffs)
    tie = ROUNDING * float(np.abs(edges).max())
    cycles = three_cycles(meta.payoffs, tie)
    ends = np.stack([edges, edges], -1) if meta.edge_intervals is None else meta.edge_intervals
    clear = np.where((ends[..., 0] > tie) | (ends[..., 1] < -tie), np.sign(edges), 0.0)
    return Analysis(
        ratings=bradley_terry(counts, prior=PRIOR, names=meta.names),
        nash=equilibrium(meta.payoffs) if meta.roles == 2 else None,
        mean_returns=(meta.payoffs.sum(1) - own) / (n - 1),
        exploitability=gains,
        nemeses=tuple(nemeses.tolist()),
        hodge=hodge(meta.payoffs),
        noise_share=_noise_share(meta, edges),
        cycles=cycles,
        clear_cycles=len(three_cycles(clear, 0.5)),
        strongest=max(cycles, key=lambda c: min(edges[i, j] for i, j in pairwise([*c, c[0]])), default=None),
    )


def _noise_share(meta: MetaGame, edges: Array) -> float | None:
    """Expected squared norm of the cyclic part of the noise, over the squared norm of the payoffs.

    A fraction (n - 2) / n of the noise is cyclic: the games of different pairs are independent, and cyclic flows span
    (n - 1)(n - 2) / 2 of the n(n - 1) / 2 dimensions, so by symmetry they hold this fraction of each pair's variance.
    """
    if meta.noise is None:
        return None
    n, total = len(edges), float(np.square(edges).sum())
    noise = float(meta.noise.sum() - np.trace(meta.noise)) * (n - 2) / n
    return min(noise / total, 1.0) if total else 0.0


def record(meta: MetaGame, found: Analysis, nash_convs: Mapping[str, float] | None = None) -> dict[str, object]:
    """The meta-game and its analysis as JSON-serialisable values, with players identified by name.

    Args:
        meta: the meta-game; [n, n] arrays become lists of rows.
        found: the result of `analyse`.
        nash_convs: name -> NashConv in the full game, if known.
    """
    names, sampled = meta.names, meta.intervals is not None
    intervals = None if meta.intervals is None else [[as_list(pair) for pair in row] for row in meta.intervals]
    edges = antisymmetrised(meta.payoffs)

    def by_name(values: Array) -> dict[str, object]:
        return dict(zip(names, values.tolist(), strict=True))

    return {
        "method": meta.method,
        "names": list(names),
        "payoffs": meta.payoffs.tolist(),
        "intervals": intervals,
        "games": meta.games.tolist(),
        "win_rates": meta.win_rates.tolist(),
        "mean_returns": by_name(found.mean_returns),
        "ratings": {
            "elo": by_name(found.ratings.elo()),
            "intervals": by_name(found.ratings.elo_intervals()) if sampled else None,
            "method": f"Bradley-Terry on Elo's scale, mean 0: {found.ratings.method}",
        },
        "elo": None if meta.elo is None else {"ratings": by_name(meta.elo.ratings), "method": meta.elo.method},
        "meta_nash": None
        if found.nash is None
        else {
            "weights": by_name(found.nash.weights),
            "skills": by_name(found.nash.skills),
            "entropy": found.nash.entropy,
            "exploitability": found.nash.gap,
            "method": found.nash.method,
        },
        "exploitability": {
            name: {"value": value, "by": names[nemesis]}
            for name, value, nemesis in zip(names, found.exploitability.tolist(), found.nemeses, strict=True)
        },
        "nash_conv": None if nash_convs is None else dict(nash_convs),
        "cycles": {
            "share": found.hodge.cyclic_share,
            "noise_share": found.noise_share,
            "three_cycles": len(found.cycles),
            "clear_three_cycles": found.clear_cycles,
            "strongest": None if found.strongest is None else [names[i] for i in found.strongest],
            "strongest_margin": None
            if found.strongest is None
            else min(float(edges[i, j]) for i, j in pairwise([*found.strongest, found.strongest[0]])),
        },
    }
