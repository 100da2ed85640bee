"""A bandit of four arms and its tabular policy."""

from selfplay.core import Ask, user
from selfplay.players.tabular import Tabular

ARMS, PAYS = ("p", "q", "r", "s"), (1.0, 0.0, -1.0, 0.5)
ASK = Ask("solver", user("pull"), ARMS)


def table(spread: float = 0.5, temperature: float = 1.0) -> Tabular:
    return Tabular(states=4, actions=4, spread=spread, temperature=temperature, seed=0)
