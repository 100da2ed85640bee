"""Agent quantal response equilibria of extensive-form games."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import NoConvergence, newton_krylov

from selfplay.core import SelfplayError
from selfplay.theory.exploitability import sequence_values
from selfplay.theory.strategies import Strategy, flat, reach_of_others, recall, unflat, uniform, without
from selfplay.theory.tree import Tree

RATIO, SLOWEST = 0.5, 0.99  # factor on beta per step: at first RATIO, after failed steps up to SLOWEST
NEWTON_STEPS, GMRES_STEPS, ROUNDING = 30, 100, 1e-14


@dataclass(frozen=True, eq=False)
class QuantalResponse:
    """An agent quantal response equilibrium.

    Attributes:
        strategy: the fixed point.
        beta: the temperature, in units of the returns.
        residual: largest absolute difference between the strategy and the quantal response to it.
        iterations: number of evaluations of Q.
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

    Q(a) is the role's expected return after option a, given that the state is reached and all roles follow the strategy
    from there on. Q excludes the KL penalties of later states: this is the agent quantal response equilibrium of
    McKelvey & Palfrey (1998), with lambda = 1 / beta. It is the fixed point of a policy gradient that penalises each
    decision separately by beta KL(pi || ref); maximising the return minus the summed penalties gives a different one,
    unless each role decides only once.

    Newton-Krylov steps trace the principal branch from the reference (beta = inf) down to beta, each warm-started from
    the last, as long as the branch does not fold back (Turocy 2005). Other equilibria may exist at the same beta. In
    states that the other roles do not reach, a role plays its reference.

    Args:
        tree: the enumerated game.
        beta: temperature, above 0, in units of the returns. Large: close to the reference; small: close to Nash.
        reference: the strategy with zero penalty; None is uniform (an entropy bonus of weight beta, up to a constant).
        tol: the largest accepted residual.
        iterations: the maximum number of evaluations of Q.

    Raises:
        SelfplayError: beta is not positive and finite, a role has imperfect recall, or the residual stays above `tol`.
    """
    recall(tree, tree.roles)
    if not 0 < beta < np.inf:
        raise SelfplayError(f"beta is {beta}; give a positive finite temperature")
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
            f"evaluations, above {tol:.0e} (traced down to beta {at:.3g}); raise beta, `iterations` or `tol`"
        )
    method = f"agent QRE, traced from the {'uniform' if reference is None else 'given'} reference by Newton-Krylov"
    return QuantalResponse(unflat(tree, policy), beta, residual, trace.count, method)


class _Trace:
    """The fixed-point equation in terms of Q, which varies slowly with beta; counts evaluations of Q."""

    def __init__(self, tree: Tree, prior: NDArray[np.float64], most: int) -> None:
        self.tree, self.prior, self.most, self.count = tree, prior, most, 0

    def response(self, values: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
        """[K] the quantal response: proportional to reference * exp(values / beta) in each state."""
        return _softmax(self.tree, self.prior + values / beta)

    def values(self, policy: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K] expected return after each slot, given that its state is reached; 0 if other roles never reach it."""
        self.count += 1
        others = without(self.tree, policy)
        reached = np.repeat(reach_of_others(self.tree, others), self.tree.sizes)
        values = sequence_values(self.tree, policy, best=False, others=others)[: len(policy)]
        return np.divide(values, reached, out=np.zeros_like(values), where=reached > 0)

    def solve(self, beta: float, start: NDArray[np.float64], tol: float) -> NDArray[np.float64] | None:
        """[K] the values at the fixed point for beta; None if the solver does not converge from `start`."""

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
    """[K] softmax over the slots of each state."""
    top = np.repeat(np.maximum.reduceat(logits, tree.first), tree.sizes)
    likely = np.exp(logits - top)
    total: NDArray[np.float64] = likely / np.repeat(np.add.reduceat(likely, tree.first), tree.sizes)
    return total
