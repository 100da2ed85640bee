"""The opponent of Nash-MD: a geometric mixture of the current learner and the reference."""

from collections.abc import Mapping
from typing import Any

from selfplay.core import Player, Policy
from selfplay.opponents.matchmaker import LEARNER, Against, Seats
from selfplay.options import Share
from selfplay.players.mixture import GeometricMixture

MIXTURE = "mixture"


def against_mixture(seated: Seats, players: Mapping[str, Player], coefficient: Share = 0.5, **_: Any) -> Against:
    """The learner plays one of its roles, in rotation, and the mixture learner^(1 - c) reference^c plays the others.

    With a regularizer towards the reference, the learner's fixed point is that of Nash-MD (2312.00886): pi proportional
    to reference * exp(payoffs against the mixture / beta). For c = 0 that is the regularised equilibrium.

    Args:
        seated: role -> name, as configured in `seats`.
        players: all players, by name; "learner" and "reference" among them.
        coefficient: c, from 0 to 1.

    Raises:
        SelfplayError: the coefficient is not in [0, 1], or the learner has fewer than two roles.
    """
    learner, reference = players[LEARNER], players["reference"]
    assert isinstance(learner, Policy) and isinstance(reference, Policy)
    return Against(seated, {**players, MIXTURE: GeometricMixture(learner, reference, coefficient)}, MIXTURE)
