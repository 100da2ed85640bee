"""A game in extensive form: its histories and information states, enumerated from its asks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay.core import Game
from selfplay.theory.size import check_size
from selfplay.theory.walk import State, Walk

__all__ = ["Depth", "State", "Tree", "enumerate_game"]


@dataclass(frozen=True)
class Depth:
    """The information states in which the acting role has made a given number of earlier decisions.

    Attributes:
        states: indices of the states.
        slots: their slots, concatenated state by state.
        starts: offset of each state in `slots`.
    """

    states: NDArray[np.int64]
    slots: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tree:
    """A finite extensive-form game as flat arrays: N histories (nodes), Z terminal ones, S states, R roles, K slots.

    A slot is one option of one information state; slots are numbered state by state, in the order of the options. A
    sequence is the last slot that a role took; indices K to K + R - 1 are the empty sequences, one per role.

    Attributes:
        game: name of the game.
        roles: the game's roles without "chance".
        states: information states in the order of discovery; a state comes after its role's earlier states.
        zero_sum: whether the returns sum to 0 at every terminal node.
        forgets: role -> a prompt at which it has imperfect recall; empty if all roles have perfect recall.
        levels: the nodes at each depth; nodes are numbered level by level, and the root is 0.
        parents: [N] parent of each node; the root's is 0.
        luck: [N] probability of the chance outcome that leads to the node; 1 after a role's decision.
        slots: [N] the slot that leads to the node; -1 after a chance outcome.
        at: [N] the state of the decision at the node; -1 at terminal and chance nodes.
        ends: [Z] indices of the terminal nodes.
        returns: [R, Z] return of each role at each terminal node.
        last: [R, Z] sequence of each role at each terminal node.
        first: [S] first slot of each state.
        sizes: [S] number of options of each state.
        owner: [S] role that acts in the state, as an index into `roles`.
        above: [S] sequence of the acting role before the state.
        depths: the states, grouped by the number of earlier decisions of their role.
    """

    game: str
    roles: tuple[str, ...]
    states: tuple[State, ...]
    zero_sum: bool
    forgets: Mapping[str, str]
    levels: tuple[slice, ...]
    parents: NDArray[np.int64]
    luck: NDArray[np.float64]
    slots: NDArray[np.int64]
    at: NDArray[np.int64]
    ends: NDArray[np.int64]
    returns: NDArray[np.float64]
    last: NDArray[np.int64]
    first: NDArray[np.int64]
    sizes: NDArray[np.int64]
    owner: NDArray[np.int64]
    above: NDArray[np.int64]
    depths: tuple[Depth, ...]

    def __len__(self) -> int:
        """N, the number of nodes."""
        return len(self.parents)

    @property
    def slot_count(self) -> int:
        """K, the number of slots."""
        return int(self.sizes.sum())


def enumerate_game(game: Game, limit: int = 1_000_000) -> Tree:
    """Enumerate every history of a game. Simultaneous asks are branched on sequentially, in their order.

    A generator cannot be forked, so the game is replayed from the start once per terminal node. Chance outcomes of
    weight 0 are skipped.

    Args:
        game: the game to enumerate.
        limit: the maximum number of nodes.

    Raises:
        NotEnumerable: the game has more than `limit` nodes, accepts free text, or ends without returns.
        SelfplayError: one state has different options, a role is unknown, a return is missing or not finite, or the
            game is not a pure function of its replies.
    """
    check_size(game, limit)
    return _tree(Walk(game, limit))


def _tree(walk: Walk) -> Tree:
    """The walk's records as a tree, with the nodes sorted by level."""
    parents, depths, slots, luck = (np.array(column) for column in zip(*walk.edges, strict=True))
    order = np.argsort(depths, kind="stable")
    rank = np.argsort(order)
    bounds = np.searchsorted(depths[order], np.arange(depths.max() + 2)).tolist()
    roles, size = len(walk.roles), walk.first[-1] + len(walk.roles)
    nodes, returns, last = zip(*walk.ends, strict=True)
    paid = np.array(returns).reshape(-1, roles).T
    above = np.array(walk.above, dtype=np.int64) % size if size else np.zeros(0, np.int64)
    return Tree(
        game=walk.name,
        roles=walk.roles,
        states=tuple(walk.states),
        zero_sum=bool((np.abs(paid.sum(0)) < 1e-9).all()),
        forgets=walk.forgets,
        levels=tuple(map(slice, bounds[:-1], bounds[1:])),
        parents=rank[parents[order]],
        luck=luck[order],
        slots=slots[order],
        at=np.array(walk.at)[order],
        ends=rank[list(nodes)],
        returns=paid,
        last=np.array(last, dtype=np.int64).reshape(-1, roles).T % max(size, 1),
        first=np.array(walk.first[:-1], dtype=np.int64),
        sizes=np.diff(walk.first),
        owner=np.array([walk.roles.index(s.role) for s in walk.states], dtype=np.int64),
        above=above,
        depths=_depths(above, walk.first),
    )


def _depths(above: NDArray[np.int64], first: list[int]) -> tuple[Depth, ...]:
    """The states, grouped by the number of earlier decisions of their role."""
    of_slot = np.repeat(np.arange(len(above)), np.diff(first))
    depths: list[int] = []
    for sequence in above.tolist():
        depths.append(0 if sequence >= first[-1] else depths[of_slot[sequence]] + 1)
    found = []
    for depth in range(max(depths, default=-1) + 1):
        states = np.flatnonzero(np.array(depths) == depth)
        spans = [np.arange(first[s], first[s + 1]) for s in states.tolist()]
        starts = np.cumsum([0, *map(len, spans)])[:-1]
        found.append(Depth(states, np.concatenate(spans), starts))
    return tuple(found)
