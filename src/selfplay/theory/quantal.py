"""Quantal response equilibria: everybody plays better options more often, as much as a temperature says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import NoConvergence, newton_krylov

from selfplay.core import SelfplayError
from selfplay.theory.exploitability import sequence_values
from selfplay.theory.strategies import Strategy, flat, reach_of_others, recall, unflat, uniform, without
from selfplay.theory.tree import Tree

RATIO, SLOWEST = 0.5, 0.99  # beta shrinks by RATIO a step, at the slowest by SLOWEST
NEWTON_STEPS, GMRES_STEPS, ROUNDING = 30, 100, 1e-14


@dataclass(frozen=True, eq=False)
class QuantalResponse:
    """An agent quantal response equilibrium.

    Attributes:
        strategy: the fixed point.
        beta: the temperature, in units of the returns.
        residual: largest difference between a probability and the response to the strategy.
        iterations: how many evaluations of the values it took.
        method: how it was computed.
    """

    strategy: Strategy
    beta: float
    residual: float
    iterations: int
    method: str


def quantal_response(
    tree: Tree,
    beta: float,
    reference: Strategy | None = None,
    tol: float = 1e-10,
    iterations: int = 100_000,
) -> QuantalResponse:
    """The strategy with pi(a) = ref(a) exp(Q(a) / beta) / sum_b ref(b) exp(Q(b) / beta) in every state.

    Q(a) is the role's expected return after the option, given that the state was come to and that all, the role itself
    included, play the strategy from there on. Q is the plain return, without the penalties of later states: the agent
    quantal response equilibrium of McKelvey & Palfrey (1998), with lambda = 1 / beta. It is the fixed point of a policy
    gradient with a penalty beta KL(pi || ref) at each decision by itself, not of one that maximises return minus the
    sum of the penalties. In a game where each role decides once there is no difference.

    Traced by Newton-Krylov steps from the reference (beta infinite) down to beta, each started from the last: the
    principal branch of the correspondence, as far as it does not fold back (Turocy 2005). There can be other equilibria
    at the same beta. Where the others do not let a role come, it keeps to its reference.

    Args:
        beta: temperature, positive, in units of the returns: large is close to the reference, small to equilibrium.
        reference: the strategy that is paid no penalty; None is uniform (a bonus beta times entropy, up to a constant).
        tol: the largest residual.
        iterations: the most evaluations of Q.

    Raises:
        SelfplayError: beta is not positive, a role forgets, or the residual is still above `tol` at the end.
    """
    recall(tree, tree.roles)
    if not 0 < beta < np.inf:
        raise SelfplayError(f"beta is {beta}, but a temperature must be positive; change it")
    with np.errstate(divide="ignore"):
        prior = np.log(flat(tree, uniform(tree) if reference is None else reference))
    trace = _Trace(tree, prior, iterations)
    values = trace.values(np.exp(prior))
    at, ratio = max(beta, float(np.ptp(tree.returns, axis=1).max(initial=0.0))) / RATIO, RATIO
    while at > beta and ratio < SLOWEST:
        found = trace.solve(max(beta, at * ratio), values, tol)
        if found is None:
            ratio = ratio**0.5
        else:
            at, values = max(beta, at * ratio), found
    policy = trace.response(values, beta)
    residual = float(np.abs(trace.response(trace.values(policy), beta) - policy).max(initial=0.0))
    if residual > tol:
        raise SelfplayError(
            f"the quantal response of {tree.game} at beta {beta} has a residual of {residual:.1e} after {trace.count} "
            f"evaluations, more than {tol:.0e} (followed down to beta {at:.3g}); raise beta, `iterations` or `tol`"
        )
    method = f"agent QRE, traced from the {'uniform' if reference is None else 'given'} reference by Newton-Krylov"
    return QuantalResponse(unflat(tree, policy), beta, residual, trace.count, method)


class _Trace:
    """The fixed points in terms of Q, which changes little with beta. Counts evaluations."""

    def __init__(self, tree: Tree, prior: NDArray[np.float64], most: int) -> None:
        self.tree, self.prior, self.most, self.count = tree, prior, most, 0

    def response(self, values: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
        """[K] the reference, tilted by the values."""
        return _softmax(self.tree, self.prior + values / beta)

    def values(self, policy: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K] expected return after each slot, given that its state was come to; 0 where it cannot be."""
        self.count += 1
        others = without(self.tree, policy)
        reached = np.repeat(reach_of_others(self.tree, others), self.tree.sizes)
        values = sequence_values(self.tree, policy, best=False, others=others)[: len(policy)]
        return np.divide(values, reached, out=np.zeros_like(values), where=reached > 0)

    def solve(self, beta: float, start: NDArray[np.float64], tol: float) -> NDArray[np.float64] | None:
        """[K] the values at beta's fixed point; None if they are not found from the start."""

        def gap(values: NDArray[np.float64]) -> NDArray[np.float64]:
            if self.count >= self.most:
                raise NoConvergence
            return values - self.values(self.response(values, beta))

        accuracy = max(tol * beta, ROUNDING * float(np.abs(self.tree.returns).max(initial=0.0)))
        try:
            found = newton_krylov(
                gap,  # type: ignore[arg-type]
                start,
                method="gmres",
                inner_maxiter=min(GMRES_STEPS, max(1, len(start))),
                f_tol=accuracy,
                maxiter=NEWTON_STEPS,
            )
        except (NoConvergence, ValueError):
            return None
        return np.asarray(found, dtype=np.float64)


def _softmax(tree: Tree, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] probabilities, state by state."""
    top = np.repeat(np.maximum.reduceat(logits, tree.first), tree.sizes)
    likely = np.exp(logits - top)
    total: NDArray[np.float64] = likely / np.repeat(np.add.reduceat(likely, tree.first), tree.sizes)
    return total
