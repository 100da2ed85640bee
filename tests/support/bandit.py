"""A bandit of four arms, its tabular policy, and what an update of that policy is given."""

from collections.abc import Sequence

from configs import config

from selfplay.building import make_later
from selfplay.core import Ask, Batch, Episode, Turn, Update, user
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate

ARMS, PAYS = ("p", "q", "r", "s"), (1.0, 0.0, -1.0, 0.5)
ASK = Ask("solver", user("pull"), ARMS)


def table(spread: float = 0.5, temperature: float = 1.0) -> Tabular:
    return Tabular(states=4, actions=4, spread=spread, temperature=temperature, seed=0)


def updated(policy: Tabular, name: str, *overrides: str) -> Update:
    """The configured update with plain gradient descent; its reference is the policy as it is."""
    cfg = config("game=demonstrations", "player=tabular", f"update={name}", *overrides)
    update: Update = make_later(cfg["update"], "update")(policy=policy, reference=policy.snapshot(), roles=("solver",))
    return update


def said(policy: Tabular, places: Sequence[int], pays: Sequence[float], weights: Sequence[float] | None) -> Batch:
    """Turns that took the arms at these places, all in one group; weighed, or drawn where there are no weights."""
    ask = Ask("solver", user("pull"), ARMS[: len(policy.probabilities([ASK])[0])])
    likely = weights or (1.0,) * len(places)
    return collate(
        [
            (Episode(i, [], weight=w, sampled=weights is None), Turn(ask, reply, payoff=pay))
            for i, (reply, pay, w) in enumerate(
                zip(policy.reply_with([ask] * len(places), places), pays, likely, strict=True)
            )
        ]
    )
