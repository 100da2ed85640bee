"""The rival of Nash-MD: a geometric mixture of the learner as it is and the reference."""

from collections.abc import Mapping
from typing import Any

from selfplay.core import Player, Policy
from selfplay.opponents.matchmaker import LEARNER, Against, Seats
from selfplay.options import Share
from selfplay.players.mixture import GeometricMixture

MIXTURE = "mixture"


def against_mixture(seated: Seats, players: Mapping[str, Player], coefficient: Share = 0.5, **_: Any) -> Against:
    """The learner in one of its roles, the mixture learner^(1 - c) reference^c in the others; the roles take turns.

    With a regularizer towards the reference the learner's fixed point is that of Nash-MD (2312.00886): pi in proportion
    to reference x exp(its pay-offs against the mixture / beta). For c = 0 that is the regularised equilibrium itself.

    Args:
        seated: role -> name, as the config seats them.
        players: "learner" and "reference" among them.
        coefficient: c, from 0 to 1.

    Raises:
        SelfplayError: the coefficient is no share, or the game leaves no role for an opponent.
    """
    learner, reference = players[LEARNER], players["reference"]
    assert isinstance(learner, Policy) and isinstance(reference, Policy)
    return Against(seated, {**players, MIXTURE: GeometricMixture(learner, reference, coefficient)}, MIXTURE)
