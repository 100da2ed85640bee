"""Replicator dynamics and quantal response equilibria of two-player matrix games."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.special import log_softmax, softmax

from selfplay.core import SelfplayError, at_least
from selfplay.theory.zero_sum import Array, matrix

EVALUATIONS = 500_000  # most evaluations of the replicator's derivative: about 40,000 steps


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A trajectory of replicator dynamics.

    Attributes:
        times: [t] from 0 to the duration, in units of 1 / payoff.
        row: [t, n] the row population at those times.
        column: [t, m] the column population; equal to `row` if there is one population.
        row_average: [n] time average of the row population.
        column_average: [m] time average of the column population.
        method: the integrator and its settings.
    """

    times: Array
    row: Array
    column: Array
    row_average: Array
    column_average: Array
    method: str


@dataclass(frozen=True, eq=False)
class QuantalResponse:
    """A logit quantal response equilibrium.

    Attributes:
        row: [n] proportional to row_reference * exp(returns against the column player / beta).
        column: [m] likewise.
        row_value: expected return of the row player, without the regulariser.
        column_value: expected return of the column player, without the regulariser.
        beta: the temperature, in the payoffs' unit.
        residual: largest absolute error of a log probability in the equations above.
        method: the algorithm used.
    """

    row: Array
    column: Array
    row_value: float
    column_value: float
    beta: float
    residual: float
    method: str


def replicator_derivative(payoffs: ArrayLike, state: ArrayLike) -> Array:
    """[n] the time derivative x_i ((A x)_i - x A x) of the replicator equation (Taylor and Jonker 1978).

    Args:
        payoffs: [n, n] the matrix A.
        state: [n] the distribution x.

    Raises:
        SelfplayError: the payoffs are not a square matrix of finite numbers, or the state is not a distribution [n].
    """
    game = matrix(payoffs, square=True)
    x = _distribution("state", state, len(game))
    return x * (game @ x - x @ game @ x)


def replicator(
    payoffs: ArrayLike,
    column_payoffs: ArrayLike | None = None,
    *,
    duration: float = 100.0,
    points: int = 101,
    start: ArrayLike | None = None,
    column_start: ArrayLike | None = None,
    discrete: bool = False,
) -> Trajectory:
    """Replicator dynamics (Taylor and Jonker 1978) of one population or of two.

    The integrated variable z is the time integral of the opponents' strategies, with x = softmax(log start + A z)
    (DOP853, relative tolerance 1e-9). This keeps x a distribution, and z / duration is its time average. The discrete
    variant takes Euler steps in z: x <- x exp(step A x), normalised, which is exponential weights (Freund and Schapire
    1999). In a symmetric zero-sum game, the exploitability of the continuous average from the uniform start is at most
    log(n) / duration.

    Args:
        payoffs: [n, m] payoffs of the row player; square if there is one population.
        column_payoffs: [n, m] payoffs of the column player; None for one population in self-play.
        duration: above 0, in units of 1 / payoff; the cost is proportional to duration times payoffs, see Raises.
        points: number of recorded times, at least 2; the discrete variant takes points - 1 steps.
        start: [n] the row population at time 0; uniform by default.
        column_start: [m] the column population at time 0; uniform by default.
        discrete: whether to take Euler steps (exponential weights) instead of integrating in continuous time.

    Raises:
        SelfplayError: payoffs or starts have the wrong shape or are not finite, an argument is out of range, or more
            than `EVALUATIONS` evaluations of the derivative are needed.
    """
    alone = column_payoffs is None
    game, other = _bimatrix(payoffs, matrix(payoffs, square=True).T if alone else column_payoffs)
    at_least(2, points=points)
    if not 0 < duration < math.inf:
        raise SelfplayError(f"duration is {duration}; use a finite number above 0")
    n, m = game.shape
    x = _distribution("start", start, n)
    y = x if alone else _distribution("column_start", column_start, m)
    with np.errstate(divide="ignore"):
        log_x, log_y = np.log(x), np.log(y)

    def populations(z: Array) -> Array:
        return np.concatenate([softmax(log_x + game @ z[n:]), softmax(log_y + other.T @ z[:n])])

    times = np.linspace(0.0, duration, points)
    totals = _euler(populations, times, n + m) if discrete else _integral(populations, times, n + m)
    states, average = np.array([populations(z) for z in totals]), totals[-1] / duration
    name = "exponential weights" if discrete else "continuous replicator (DOP853)"
    method = f"{name}, {'one population' if alone else 'two populations'}, duration {duration:g}"
    return Trajectory(times, states[:, :n], states[:, n:], average[:n], average[n:], method)


def replicator_average(payoffs: ArrayLike, duration: float = 1000.0) -> Array:
    """[n] time average of one population from the uniform start. payoffs: [n, n]; raises as `replicator`."""
    average = replicator(payoffs, duration=duration, points=2).row_average
    return np.asarray(average / average.sum(), dtype=np.float64)


def quantal_response(
    payoffs: ArrayLike,
    column_payoffs: ArrayLike | None = None,
    *,
    beta: float,
    row_reference: ArrayLike | None = None,
    column_reference: ArrayLike | None = None,
) -> QuantalResponse:
    """The logit quantal response equilibrium (McKelvey and Palfrey 1995) on the principal branch from beta = inf.

    Each strategy is proportional to reference * exp(its returns / beta). This is the Nash equilibrium of the game in
    which each player also pays beta * KL(strategy, reference); with uniform references, that is entropy regularisation.
    It is unique in zero-sum games. A predictor-corrector method in log probabilities follows the branch through turning
    points (Turocy 2005); if several equilibria exist at beta, the result is the first one reached.

    Args:
        payoffs: [n, m] payoffs of the row player.
        column_payoffs: [n, m] payoffs of the column player; None for the negated row payoffs.
        beta: temperature, above 0, in the payoffs' unit; at infinity each player plays its reference.
        row_reference: [n] distribution with every entry above 0; uniform by default.
        column_reference: [m] distribution with every entry above 0; uniform by default.

    Raises:
        SelfplayError: payoffs or references have the wrong shape, a reference is not positive, beta is out of range, or
            the branch does not reach beta.
    """
    game, other = _bimatrix(payoffs, -matrix(payoffs) if column_payoffs is None else column_payoffs)
    if not beta > 0:
        raise SelfplayError(f"beta is {beta}; use a temperature above 0, or a Nash solver for 0")
    (n, m), scale = game.shape, max(np.ptp(game), np.ptp(other)) or 1.0
    references = (
        _distribution("row_reference", row_reference, n),
        _distribution("column_reference", column_reference, m),
    )
    if min(r.min() for r in references) <= 0:
        raise SelfplayError("a reference has an entry of 0; remove that strategy from the game instead")
    branch = _Branch((game - game.min()) / scale, (other - other.min()) / scale, np.log(np.concatenate(references)))
    point = branch.follow(scale / beta)
    row, column = (np.asarray(softmax(part), dtype=np.float64) for part in (point[:n], point[n:-1]))
    residual = float(np.abs(branch.errors(point)).max())
    values = float(row @ game @ column), float(row @ other @ column)
    return QuantalResponse(row, column, *values, float(beta), residual, "logit branch from the references, arclength")


class _Branch:
    """The curve errors(point) = 0 of points (log row, log column, 1 / beta), for payoffs in [0, 1]."""

    def __init__(self, game: Array, other: Array, references: Array) -> None:
        self.game, self.other, self.references, self.n = game, other, references, len(game)

    def errors(self, point: Array) -> Array:
        """[n + m] log probabilities minus those of the quantal responses."""
        return point[:-1] - self._respond(point)[0]

    def _respond(self, point: Array) -> tuple[Array, Array]:
        """[n + m] the log quantal responses at the point, and [n + m] the expected return of each action."""
        n, plays = self.n, np.exp(point[:-1])
        returns = np.concatenate([self.game @ plays[n:], self.other.T @ plays[:n]])
        logits = self.references + point[-1] * returns
        return np.concatenate([log_softmax(logits[:n]), log_softmax(logits[n:])]), returns

    def slopes(self, point: Array) -> Array:
        """[n + m, n + m + 1] the Jacobian of the errors."""
        n, plays = self.n, np.exp(point[:-1])
        responses, returns = self._respond(point)
        moved = np.zeros((len(plays), len(plays) + 1))
        moved[:n, n:-1] = point[-1] * self.game * plays[n:]
        moved[n:, :n] = point[-1] * self.other.T * plays[:n]
        moved[:, -1] = returns
        for part in (slice(0, n), slice(n, len(plays))):
            moved[part] -= np.exp(responses[part]) @ moved[part]
        return np.eye(*moved.shape) - moved

    def follow(self, goal: float, steps: int = 5_000) -> Array:
        """The first point on the curve, starting at the references, with 1 / beta equal to `goal`."""
        point, length = np.append(self.references, 0.0), 0.1
        if goal == 0:
            return point
        along = np.append(np.zeros(len(point) - 1), 1.0)
        for _ in range(steps):
            tangent = np.linalg.qr(self.slopes(point).T, mode="complete")[0][:, -1]
            tangent = tangent if tangent @ along > 0 else -tangent
            last = point[-1] + length * tangent[-1] >= goal
            guess = point + tangent * ((goal - point[-1]) / tangent[-1] if last else length)
            found = self._correct(guess, fixed=last)
            if found is None or np.linalg.norm(found - guess) > 0.3 * np.linalg.norm(guess - point) + 1e-9:
                length /= 2
            elif last or abs(found[-1] - goal) < 1e-12 * goal:
                return found
            elif found[-1] > goal:
                length /= 2
            else:
                point, along, length = found, tangent, length * 1.5
        raise SelfplayError(
            f"the quantal response branch did not reach beta = {1 / goal:g} times the range of the payoffs; raise beta"
        )

    def _correct(self, point: Array, fixed: bool) -> Array | None:
        """Newton's method back to the curve, with 1 / beta held constant if `fixed`; None if it does not converge."""
        for _ in range(8):
            errors, slopes = self.errors(point), self.slopes(point)
            if np.abs(errors).max() < 1e-13 * (1 + np.abs(point).max()):
                return point
            used = slopes[:, :-1] if fixed else slopes
            step = np.linalg.lstsq(used, errors, rcond=None)[0]
            point = point - (np.append(step, 0.0) if fixed else step)
            if not np.isfinite(point).all() or point[:-1].max() > 1.0:
                return None
        return None


def _bimatrix(payoffs: ArrayLike, column_payoffs: ArrayLike | None) -> tuple[Array, Array]:
    assert column_payoffs is not None
    game, other = matrix(payoffs), matrix(column_payoffs)
    if game.shape != other.shape:
        raise SelfplayError(
            f"payoffs have shape {game.shape} but column_payoffs {other.shape}; index both by [row, column]"
        )
    for side in (game, other):
        if not np.isfinite(side.max() - side.min()):
            raise SelfplayError(
                f"the payoffs lie between {side.min():.3g} and {side.max():.3g}, whose difference overflows a float; "
                "divide them by a constant"
            )
    return game, other


def _distribution(name: str, weights: ArrayLike | None, size: int) -> Array:
    x = np.full(size, 1 / size) if weights is None else np.array(weights, dtype=np.float64)
    if x.shape != (size,) or not (x >= 0).all() or not abs(x.sum() - 1) < 1e-9:
        raise SelfplayError(f"{name} is {x.tolist()}; give {size} probabilities that sum to 1")
    return x


def _integral(speed: Callable[[Array], Array], times: Array, size: int) -> Array:
    """[t, size] the solution of dz/dt = speed(z) at the given times, from z = 0."""
    start, count = np.zeros(size), 0

    def counted(_: float, z: Array) -> Array:
        nonlocal count
        count += 1
        if count > EVALUATIONS:
            raise SelfplayError(
                f"the replicator needs more than {EVALUATIONS} evaluations for a duration of {times[-1]:g}; shorten "
                "it, or divide the payoffs by a constant (its unit is 1 / payoff)"
            )
        return speed(z)

    solution = solve_ivp(counted, (0.0, times[-1]), start, "DOP853", t_eval=times, rtol=1e-9, atol=1e-11)
    if not solution.success:
        raise SelfplayError(f"the replicator's integration failed ({solution.message}); shorten the duration")
    return np.asarray(solution.y.T, dtype=np.float64)


def _euler(speed: Callable[[Array], Array], times: Array, size: int) -> Array:
    totals = np.zeros((len(times), size))
    for t, step in enumerate(np.diff(times)):
        totals[t + 1] = totals[t] + step * speed(totals[t])
    return totals
