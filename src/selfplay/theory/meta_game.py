"""A population's own game, from what everybody got of everybody: ratings, meta-Nash, exploitability, cycles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfplay.core import SelfplayError
from selfplay.theory.cycles import Hodge, hodge, three_cycles
from selfplay.theory.intervals import bounded, told
from selfplay.theory.ratings import BradleyTerry, Elo, bradley_terry, elo
from selfplay.theory.symmetric import equilibrium
from selfplay.theory.zero_sum import Array, NashAverage, antisymmetrised

PRIOR = 0.1  # of the Bradley-Terry ratings: a standard deviation of 550 Elo points
EXACT_GAMES = 128  # a pair's exact win-rate counts as this many games against the prior
ROUNDING = 1e-9  # pay-offs nearer to 0 than this share of the largest are ties
SAMPLED = (
    "games played; 95 % intervals: Agresti and Coull's, between the least and the most that anybody earned in a game"
)
EXACT = "enumeration of the game tree: exact up to rounding"


class Meeting(NamedTuple):
    """One game of `first` against `second` (places in the population), and what they earned.

    A player in several roles counts with the mean over them. `score`: 1 where first earned more, 1/2 for as much.
    """

    first: int
    second: int
    gained: float
    lost_to: float
    score: float


@dataclass(frozen=True, eq=False)
class MetaGame:
    """n players, each against each, the roles in turns.

    Attributes:
        names: of the players.
        payoffs: [n, n] mean return of i against j; the diagonal is self-play.
        intervals: [n, n, 2] 95 % intervals of the pay-offs, see `theory.intervals.bounded`; NaN where everybody earned
            the same in all games, so that nothing is known of the spread; None where the pay-offs are exact.
        edge_intervals: [n, n, 2] the same of (payoffs - payoffs.T) / 2: by how much i beats j.
        noise: [n, n] the variance of (payoffs - payoffs.T) / 2 that comes of the games' luck; None where exact.
        win_rates: [n, n] how often i earned more than j, a draw counting half.
        games: [n, n] int64 games behind each entry; 0 where it is exact.
        elo: Elo's sequential ratings, the games in an order of chance; None where none was played.
        method: how it was measured.
        roles: how many roles the players share among them; with more than two, i meets several of j, or j of i.
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
    """The meta-game that games have shown.

    Args:
        names: [n].
        meetings: at least two games of every pair and of everybody against itself, in any order of the two.
        seed: of the order in which Elo's ratings see the games.
        roles: as in `MetaGame`.

    Raises:
        SelfplayError: two players, or one and itself, met less than twice.
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
    """The meta-game of exact expectations, as in `MetaGame`; what is less than 1e-12 of `scale` is cut off as rounding.

    scale: the largest return that the game knows, in size; rounded up to a power of two.
    """
    none, unit = np.zeros(payoffs.shape, dtype=np.int64), 2.0 ** np.ceil(np.log2(scale or 1.0))
    cut = np.round(payoffs / unit, 12) * unit + 0.0
    return MetaGame(tuple(names), cut, None, None, None, np.round(win_rates, 12), none, None, EXACT, roles)


@dataclass(frozen=True, eq=False)
class Analysis:
    """What follows from a meta-game.

    Attributes:
        ratings: Bradley-Terry, from the win-rates; its errors mean nothing where the meta-game is exact.
        nash: a symmetric equilibrium of the pay-offs themselves, as `method` says; its `gap` is its exploitability
            within the population, 0 up to rounding. None with more than two roles, where a table of pairs is not the
            game that a mixture of players plays.
        mean_returns: [n] mean pay-off against all others.
        exploitability: [n] max over j of payoffs[j, i], minus payoffs[i, i]: what somebody of the population gets
            against i beyond what i gets against itself (0 in a zero-sum game); i itself included, so at least 0.
        nemeses: [n] who that is, i itself where nobody does better.
        hodge: the cyclic part of the pay-offs.
        noise_share: the cyclic share that the noise of the games alone is expected to add; None where exact.
        cycles: (i, j, k) where i beats j beats k beats i.
        clear_cycles: how many of them hold with all three intervals on one side of 0.
        strongest: the cycle whose narrowest win is widest; None without a cycle.
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
    """Everything that is said about a meta-game.

    Raises:
        SelfplayError: fewer than two players.
    """
    n = len(meta.names)
    if n < 2:
        raise SelfplayError(
            f"the population is {', '.join(meta.names) or 'empty'}; cross-play takes at least 2 players"
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
    """The noise's expected squared norm times the (n - 2) / n of it that is cyclic, over that of the pay-offs.

    The cyclic flows are (n - 1)(n - 2) / 2 of the n(n - 1) / 2 dimensions, and by symmetry every pair has as much of
    its variance in them; the pairs' games are independent.
    """
    if meta.noise is None:
        return None
    n, whole = len(edges), float(np.square(edges).sum())
    noise = float(meta.noise.sum() - np.trace(meta.noise)) * (n - 2) / n
    return min(noise / whole, 1.0) if whole else 0.0


def record(meta: MetaGame, found: Analysis, nash_convs: Mapping[str, float] | None = None) -> dict[str, object]:
    """All of it as plain values; [n, n] tables are lists of rows, players are told by name.

    Args:
        nash_convs: name -> NashConv in the full game, where it is known.
    """
    names, sampled = meta.names, meta.intervals is not None
    intervals = None if meta.intervals is None else [[told(pair) for pair in row] for row in meta.intervals]
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
