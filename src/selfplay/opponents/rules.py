"""Opponent-sampling distributions over the population, as pure functions of the payoff table."""

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import numpy as np

from selfplay.core import SelfplayError, at_least
from selfplay.opponents.matchmaker import LEARNER
from selfplay.opponents.table import Table
from selfplay.options import Count, Range


class Rule(Protocol):
    """(table, names of the population in order of entry) -> sampling probabilities [n]."""

    def __call__(self, table: Table, names: Sequence[str]) -> np.ndarray: ...


def uniform(table: Table, names: Sequence[str]) -> np.ndarray:
    """Uniform over all members, as in fictitious self-play (Heinrich et al. 2015)."""
    return np.full(len(names), 1.0 / len(names))


def recent(table: Table, names: Sequence[str], window: Count = 5) -> np.ndarray:
    """Uniform over the newest members.

    Args:
        table: unused.
        names: names of the population in order of entry.
        window: number of newest members to sample from.
    """
    at_least(1, window=window)
    weights = np.zeros(len(names))
    weights[-window:] = 1.0 / min(window, len(names))
    return weights


def prioritised(table: Table, names: Sequence[str], power: Annotated[float, Range(0, 100)] = 2.0) -> np.ndarray:
    """Proportional to (1 - the learner's win rate) ** power, which favours members that beat it.

    Prioritised fictitious self-play (AlphaStar, Vinyals et al. 2019, f_hard); uniform if the learner always wins.

    Args:
        table: results of the population.
        names: names of the population in order of entry.
        power: exponent; 0 is uniform.
    """
    weights = (1.0 - table.win_rates(LEARNER, names)) ** power
    return weights / weights.sum() if weights.sum() > 0 else uniform(table, names)


def meta(table: Table, names: Sequence[str], solver: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The meta-strategy of policy-space response oracles (PSRO, Lanctot et al. 2017, 1711.00832).

    Args:
        table: results of the population.
        names: names of the population in order of entry.
        solver: payoffs [n, n] -> distribution [n], see `selfplay.theory.meta`.

    Raises:
        SelfplayError: the learner has more than two roles, where pairwise payoffs do not define the meta-game, and the
            solver is not `uniform`; or the solver fails.
    """
    if table.roles > 2:
        from selfplay.theory.meta import uniform as payoff_free

        if getattr(solver, "func", solver) is not payoff_free:
            raise SelfplayError(
                f"the learner has {table.roles} roles, and pairwise payoffs define a meta-game for two roles only; "
                "use meta_solver=uniform, or opponent=pfsp"
            )
    return solver(table.payoffs(names))
