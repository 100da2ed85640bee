"""How cyclic a meta-game is: the Hodge decomposition of its payoffs, and cycles of three players."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.core import SelfplayError
from selfplay.theory.zero_sum import Array, antisymmetrised


@dataclass(frozen=True, eq=False)
class Hodge:
    """The payoffs, antisymmetrised, as a transitive plus a cyclic part, orthogonal to each other.

    Attributes:
        ratings: [n] in the payoffs' unit, summing to 0: the mean advantage over all players.
        transitive: [n, n] ratings[i] - ratings[j].
        cyclic: [n, n] the rest, whose rows sum to 0.
        cyclic_share: in [0, 1], the squared Frobenius norm of the cyclic part over that of the whole; 0 where the
            whole is 0.
        method: how it was found.
    """

    ratings: Array
    transitive: Array
    cyclic: Array
    cyclic_share: float
    method: str


def hodge(payoffs: ArrayLike) -> Hodge:
    """HodgeRank on the complete graph (Jiang et al. 2011, 0811.1067; Balduzzi et al. 2018, 1806.02643).

    The ratings are those whose differences are nearest to the payoffs in least squares. Balduzzi et al. take the
    log-odds of the win rates for payoffs, so that 0 is "a Bradley-Terry model fits exactly"; plain returns do too.

    Args:
        payoffs: [n, n] the return of i against j; only (payoffs - payoffs.T) / 2 is looked at.

    Raises:
        SelfplayError: the payoffs are no square matrix of finite numbers.
    """
    game = antisymmetrised(payoffs)
    scale = np.abs(game).max() or 1.0
    ratings = (game / scale).mean(axis=1)
    transitive = ratings[:, None] - ratings[None]
    cyclic = game / scale - transitive
    whole = float(np.square(game / scale).sum())
    share = float(np.square(cyclic).sum()) / whole if whole else 0.0
    return Hodge(scale * ratings, scale * transitive, scale * cyclic, min(share, 1.0), "HodgeRank, complete graph")


def cyclic_share(payoffs: ArrayLike) -> float:
    """In [0, 1]: 0 for differences of ratings (and for payoffs that are all 0), 1 for rock-paper-scissors; `hodge`."""
    return hodge(payoffs).cyclic_share


def three_cycles(payoffs: ArrayLike, margin: float = 0.0) -> tuple[tuple[int, int, int], ...]:
    """Every (i, j, k), i the smallest, where i beats j, j beats k and k beats i (Kendall and Babington Smith 1940).

    Args:
        payoffs: [n, n] the return of i against j; i beats j where (payoffs - payoffs.T) / 2 exceeds the margin.
        margin: at least 0, in the payoffs' unit.

    Raises:
        SelfplayError: the payoffs are no square matrix of finite numbers, or the margin is negative.
    """
    beats = _beats(payoffs, margin)
    found: list[tuple[int, int, int]] = []
    for i in range(len(beats)):
        pairs = np.argwhere(beats & beats[i][:, None] & beats[:, i][None])
        found += [(i, int(j), int(k)) for j, k in pairs if min(j, k) > i]
    return tuple(found)


def count_three_cycles(payoffs: ArrayLike, margin: float = 0.0) -> int:
    """How many `three_cycles` there are: a third of the closed walks of length three."""
    beats = _beats(payoffs, margin).astype(np.int64)
    return int(np.trace(beats @ beats @ beats)) // 3


def _beats(payoffs: ArrayLike, margin: float) -> NDArray[np.bool_]:
    if not margin >= 0:
        raise SelfplayError(f"margin is {margin}; use 0, or more to let close pairs count as ties")
    return antisymmetrised(payoffs) > margin
