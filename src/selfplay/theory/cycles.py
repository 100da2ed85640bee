"""Intransitivity of a meta-game: the Hodge decomposition of its payoffs, and cycles of three players."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay.core import SelfplayError
from selfplay.theory.zero_sum import Array, antisymmetrised


@dataclass(frozen=True, eq=False)
class Hodge:
    """The antisymmetrised payoffs as an orthogonal sum of a transitive and a cyclic part.

    Attributes:
        ratings: [n] mean advantage over all players, in the payoffs' unit; they sum to 0.
        transitive: [n, n] ratings[i] - ratings[j].
        cyclic: [n, n] the remainder, whose rows sum to 0.
        cyclic_share: in [0, 1], the squared Frobenius norm of the cyclic part over that of the antisymmetrised
            payoffs; 0 if those are all 0.
        method: how it was computed.
    """

    ratings: Array
    transitive: Array
    cyclic: Array
    cyclic_share: float
    method: str


def hodge(payoffs: ArrayLike) -> Hodge:
    """HodgeRank on the complete graph (Jiang et al. 2011, 0811.1067; Balduzzi et al. 2018, 1806.02643).

    The rating differences are the least-squares fit to the payoffs. Balduzzi et al. use log-odds of win rates as
    payoffs, so that a cyclic share of 0 means that a Bradley-Terry model fits exactly; plain returns also work.

    Args:
        payoffs: [n, n] the return of i against j; only (payoffs - payoffs.T) / 2 matters.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers.
    """
    game = antisymmetrised(payoffs)
    scale = np.abs(game).max() or 1.0
    ratings = (game / scale).mean(axis=1)
    transitive = ratings[:, None] - ratings[None]
    cyclic = game / scale - transitive
    total = float(np.square(game / scale).sum())
    share = float(np.square(cyclic).sum()) / total if total else 0.0
    return Hodge(scale * ratings, scale * transitive, scale * cyclic, min(share, 1.0), "HodgeRank, complete graph")


def cyclic_share(payoffs: ArrayLike) -> float:
    """`Hodge.cyclic_share` of the payoffs: 0 if they are rating differences or all 0, 1 for rock-paper-scissors."""
    return hodge(payoffs).cyclic_share


def three_cycles(payoffs: ArrayLike, margin: float = 0.0) -> tuple[tuple[int, int, int], ...]:
    """Every (i, j, k), i the smallest, where i beats j, j beats k and k beats i (Kendall and Babington Smith 1940).

    Args:
        payoffs: [n, n] the return of i against j; i beats j if (payoffs - payoffs.T)[i, j] / 2 exceeds the margin.
        margin: at least 0, in the payoffs' unit.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers, or the margin is negative.
    """
    beats = _beats(payoffs, margin)
    found: list[tuple[int, int, int]] = []
    for i in range(len(beats)):
        pairs = np.argwhere(beats & beats[i][:, None] & beats[:, i][None])
        found += [(i, int(j), int(k)) for j, k in pairs if min(j, k) > i]
    return tuple(found)


def count_three_cycles(payoffs: ArrayLike, margin: float = 0.0) -> int:
    """The number of `three_cycles`: a third of the closed walks of length three."""
    beats = _beats(payoffs, margin).astype(np.int64)
    return int(np.trace(beats @ beats @ beats)) // 3


def _beats(payoffs: ArrayLike, margin: float) -> NDArray[np.bool_]:
    if not margin >= 0:
        raise SelfplayError(f"margin is {margin}; use 0, or a positive number to count close pairs as ties")
    return antisymmetrised(payoffs) > margin
