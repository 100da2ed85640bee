"""A game as a tree: every history and every information state, by enumeration of its asks."""

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
    """The states before which their role has made the same number of decisions.

    Attributes:
        states: numbers of the states.
        slots: their slots, one state after another.
        starts: where in `slots` each state begins.
    """

    states: NDArray[np.int64]
    slots: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tree:
    """A finite game in extensive form, flat: N histories (nodes), Z of them ends, S states, R roles, K slots.

    A slot is one option of one state; slots are numbered state by state, in the order of the options. A sequence is the
    last slot that a role took; the numbers K to K + R - 1 stand for having taken none yet (one a role).

    Attributes:
        game: its name.
        roles: who decides: the game's roles without "chance".
        states: the information states in the order of first meeting; a state stands after those its role came through.
        zero_sum: whether the returns add up to 0 at every end.
        forgets: role -> a prompt at which the role no longer knows what it knew or did before.
        levels: the nodes of each distance from the root; nodes are numbered level by level, the root is 0.
        parents: [N] the node before; the root's is 0.
        luck: [N] probability of the chance option that led here, 1 where a role led here.
        slots: [N] the slot that led here, -1 where chance did.
        at: [N] the state in which the next decision is made, -1 at ends and where chance decides.
        ends: [Z] nodes.
        returns: [R, Z].
        last: [R, Z] sequence of each role at each end.
        first: [S] first slot of each state.
        sizes: [S] number of options of each state.
        owner: [S] whose state it is, as an index of `roles`.
        above: [S] the sequence of the state's role when it comes here.
        depths: the states, by the number of their role's decisions before.
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
        """N."""
        return len(self.parents)

    @property
    def slot_count(self) -> int:
        """K."""
        return int(self.sizes.sum())


def enumerate_game(game: Game, limit: int = 1_000_000) -> Tree:
    """Play every way that the game can go. Asks of one wave are branched over one after another, in their order.

    A generator cannot be forked: a node is reached by playing again from the start, once for each end of the game.
    Options of chance that have no weight are left out.

    Args:
        limit: the most nodes.

    Raises:
        NotEnumerable: more nodes than `limit`, free text, or an end without returns.
        SelfplayError: options that differ in one state, an unknown role, a return that is missing or not finite; a game
            that is not a pure function of its replies.
    """
    check_size(game, limit)
    return _tree(Walk(game, limit))


def _tree(walk: Walk) -> Tree:
    """What was found, with its nodes sorted level by level."""
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
    """The states, sorted by the number of decisions before."""
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
