"""How likely a learner meets each member of its population. Pure functions of the pay-off table."""

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import numpy as np

from selfplay.core import SelfplayError, at_least
from selfplay.opponents.matchmaker import LEARNER
from selfplay.opponents.table import Table
from selfplay.options import Count, Range


class Rule(Protocol):
    """(table, the population's names in the order of entry) -> weights [n] that add up to 1."""

    def __call__(self, table: Table, names: Sequence[str]) -> np.ndarray: ...


def uniform(table: Table, names: Sequence[str]) -> np.ndarray:
    """All alike: against the uniform history this is fictitious self-play (Heinrich et al. 2015)."""
    return np.full(len(names), 1.0 / len(names))


def recent(table: Table, names: Sequence[str], window: Count = 5) -> np.ndarray:
    """The newest `window` members alike, nobody else."""
    at_least(1, window=window)
    weights = np.zeros(len(names))
    weights[-window:] = 1.0 / min(window, len(names))
    return weights


def prioritised(table: Table, names: Sequence[str], power: Annotated[float, Range(0, 100)] = 2.0) -> np.ndarray:
    """In proportion to (1 - the learner's win-rate) ** power: who beats it is met most.

    Prioritised fictitious self-play (AlphaStar, Vinyals et al. 2019, f_hard); all alike once it beats everybody.
    """
    weights = (1.0 - table.win_rates(LEARNER, names)) ** power
    return weights / weights.sum() if weights.sum() > 0 else uniform(table, names)


def meta(table: Table, names: Sequence[str], solver: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A solution of the population's own game: policy-space response oracles (Lanctot et al. 2017, 1711.00832).

    Raises:
        SelfplayError: more than two roles are played for, so that a table of pairs is not the population's game, and
            the solver looks at it; or what the solver raises.
    """
    if table.roles > 2:
        from selfplay.theory.meta import uniform as regardless

        if getattr(solver, "func", solver) is not regardless:
            raise SelfplayError(
                f"the learner has {table.roles} roles, and a table of pairs does not describe a game of so many "
                "players, so there is no meta-equilibrium to draw by; take meta_solver=uniform, or opponent=pfsp"
            )
    return solver(table.payoffs(names))
