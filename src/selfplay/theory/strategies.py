"""Behavioural strategies on a game tree: reach probabilities, expected returns and averaging."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay.core import Player, SelfplayError
from selfplay.theory.tree import State, Tree

Strategy = tuple[NDArray[np.float64], ...]  # one distribution over options per state, for all roles


@dataclass(frozen=True)
class Reach:
    """Reach probabilities of the tree's states.

    Attributes:
        own: [S] contribution of the acting role.
        others: [S] contribution of the other roles and chance, summed over the state's histories (counterfactual
            reach).
    """

    own: NDArray[np.float64]
    others: NDArray[np.float64]


def uniform(tree: Tree) -> Strategy:
    """The uniform distribution in every state."""
    return tuple(np.full(len(s.ask.options), 1 / len(s.ask.options)) for s in tree.states)


def strategy_of(tree: Tree, players: Mapping[str, Player]) -> Strategy:
    """The exact strategy of the players, from one call of `Player.probabilities` per distinct player.

    Args:
        tree: the enumerated game.
        players: role -> player.

    Raises:
        SelfplayError: a role has no player, or a player cannot give probabilities.
    """
    for role in tree.roles:
        if role not in players:
            raise SelfplayError(f"the role '{role}' of {tree.game} has no player; give each role one")
    found: dict[int, NDArray[np.float64]] = {}
    for player in {id(players[role]): players[role] for role in tree.roles}.values():
        mine = [i for i, state in enumerate(tree.states) if players[state.role] is player]
        given = player.probabilities([tree.states[i].ask for i in mine]) if mine else []
        if len(given) != len(mine):
            raise SelfplayError(
                f"{type(player).__name__}.probabilities returned {len(given)} vectors for {len(mine)} asks; "
                "return one per ask"
            )
        found |= {i: np.asarray(p, dtype=np.float64) for i, p in zip(mine, given, strict=True)}
    strategy = tuple(found[i] for i in range(len(tree.states)))
    flat(tree, strategy)
    return tuple(p / p.sum() for p in strategy)


def expected_returns(tree: Tree, strategy: Strategy) -> dict[str, float]:
    """Role -> expected return under the strategy: a sum over all terminal nodes, exact up to rounding."""
    likely = histories(tree, np.append(flat(tree, strategy), 1.0))[tree.ends]
    return dict(zip(tree.roles, (tree.returns @ likely).tolist(), strict=True))


def reach(tree: Tree, strategy: Strategy) -> Reach:
    """Reach probabilities of each state by its own role and by the others (Zinkevich et al. 2007).

    Raises:
        SelfplayError: a role has imperfect recall, so its own reach is not well defined per state.
    """
    recall(tree, tree.roles)
    vector = flat(tree, strategy)
    return Reach(own_reach(tree, vector)[tree.above], reach_of_others(tree, without(tree, vector)))


def average(tree: Tree, strategies: Sequence[Strategy], weights: Sequence[float]) -> Strategy:
    """The behavioural strategy equivalent to each role independently sampling one of the strategies before the game.

    In each state a strategy is weighted by its weight times its own reach of the state (Kuhn 1953; Heinrich et al.
    2015, theorem 7). In states that no strategy reaches, it is weighted by its weight alone.

    Args:
        tree: the enumerated game.
        strategies: the strategies to average, at least one.
        weights: one non-negative weight per strategy, with a positive sum.

    Raises:
        SelfplayError: there are no strategies, the weights are invalid, or a role has imperfect recall.
    """
    recall(tree, tree.roles)
    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(strategies),) or not len(strategies) or shares.min() < 0 or not 0 < shares.sum() < np.inf:
        raise SelfplayError(
            f"the weights {list(weights)} are invalid for {len(strategies)} strategies; give one non-negative weight "
            "per strategy, with a positive sum"
        )
    vectors = np.stack([flat(tree, strategy) for strategy in strategies])
    own = np.stack([own_reach(tree, vector)[tree.above] for vector in vectors])
    shares = np.broadcast_to((shares / shares.sum())[:, None], own.shape)
    weighted = shares * own
    weighted = np.where(weighted.sum(0) > 0, weighted, shares)
    weighted = np.repeat(weighted / weighted.sum(0), tree.sizes, axis=1)
    return unflat(tree, (weighted * vectors).sum(0))


# --- On vectors over slots and sequences ------------------------------------------------------------------------------


def histories(tree: Tree, choices: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., N] reach probability of each node.

    Args:
        tree: the enumerated game.
        choices: [..., K + 1] probability of each slot; the last entry, used for chance, is 1.
    """
    edges = tree.luck * choices[..., tree.slots]
    likely = np.ones_like(edges)
    for level in tree.levels[1:]:
        likely[..., level] = likely[..., tree.parents[level]] * edges[..., level]
    return likely


def without(tree: Tree, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """[R, N] reach probability of each node by chance and all roles but one. vector: [K] probability of each slot."""
    mine = np.repeat(tree.owner, tree.sizes) == np.arange(len(tree.roles))[:, None]
    choices = np.ones((len(tree.roles), len(vector) + 1))
    choices[:, :-1] = np.where(mine, 1.0, vector)
    return histories(tree, choices)


def reach_of_others(tree: Tree, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S] the counterfactual reach of each state. others: [R, N] the result of `without`."""
    nodes = np.flatnonzero(tree.at >= 0)
    states = tree.at[nodes]
    return np.bincount(states, others[tree.owner[states], nodes], len(tree.states)).astype(np.float64)


def own_reach(tree: Tree, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K + R] realisation weight of each sequence of its role. vector: [K] probability of each slot."""
    own = np.ones(len(vector) + len(tree.roles))
    for depth in tree.depths:
        before = np.repeat(own[tree.above[depth.states]], tree.sizes[depth.states])
        own[depth.slots] = before * vector[depth.slots]
    return own


def recall(tree: Tree, roles: Sequence[str]) -> None:
    """Raise SelfplayError if one of the roles has imperfect recall."""
    for role in roles:
        if role in tree.forgets:
            raise SelfplayError(
                f"the role '{role}' of {tree.game} has imperfect recall at '{tree.forgets[role]}'; "
                "include everything it saw and did in its messages"
            )


def flat(tree: Tree, strategy: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[K] a strategy as one vector over the slots.

    Raises:
        SelfplayError: it is not a strategy of this tree, which has one probability vector per state.
    """
    if len(strategy) != len(tree.states):
        raise SelfplayError(
            f"the strategy has {len(strategy)} states, but {tree.game} has {len(tree.states)}; give a vector per state"
        )
    for state, p in zip(tree.states, strategy, strict=True):
        if p.shape != (len(state.ask.options),):
            raise SelfplayError(_improper(tree, state, p))
    vector = np.concatenate([*strategy, np.zeros(0)])
    sums = np.add.reduceat(vector, tree.first) if len(strategy) else vector
    lows = np.minimum.reduceat(vector, tree.first) if len(strategy) else vector
    proper = (np.abs(sums - 1) < 1e-5) & (lows >= 0)
    if not proper.all():
        worst = int(np.argmin(proper))
        raise SelfplayError(_improper(tree, tree.states[worst], strategy[worst]))
    return vector


def unflat(tree: Tree, vector: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Split a vector over the slots [K] into one vector per state; entries beyond K are dropped."""
    return tuple(
        vector[start : start + len(state.ask.options)]
        for start, state in zip(tree.first.tolist(), tree.states, strict=True)
    )


def _improper(tree: Tree, state: State, p: NDArray[np.float64]) -> str:
    return (
        f"the role '{state.role}' of {tree.game} has the probabilities {p.tolist()} over the {len(state.ask.options)} "
        f"options at '{state.ask.prompt}'; give one per option, summing to 1"
    )
