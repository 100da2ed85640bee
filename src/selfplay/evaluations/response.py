"""The learner as a response to fixed players, between what they earn themselves and the best response."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from selfplay.core import SelfplayError, at_least
from selfplay.opponents.matchmaker import LEARNER
from selfplay.options import Name, Period, Range
from selfplay.theory.exploitability import best_response
from selfplay.theory.strategies import expected_returns, strategy_of
from selfplay.theory.tree import Tree, enumerate_game

if TYPE_CHECKING:
    from selfplay.experiment import Experiment


class Response:
    """The learner's exact return in each of its roles while another player has all other roles, by enumeration.

    A learner without a role, which only learns from teachers, is evaluated in all of them.
    `returns` are the learner's, `own` the other player's in the learner's place, `best` those of a best response;
    `return` and so on are their means over the roles, and `share` is (return - own) / (best - own).

    Args:
        name: the other player, one of the config's `players` or "reference".
        greedy: let the learner take its most likely option (of equally likely ones the first).
        every: steps between evaluations; one always runs before the first step and one after the last.
        limit: the maximum number of nodes to enumerate.

    Raises (when called):
        SelfplayError: no player has this name, it gives no probabilities, or the game cannot be enumerated.
    """

    def __init__(
        self,
        name: Name = "reference",
        greedy: bool = False,
        every: Period = 20,
        limit: Annotated[int, Range(1, 100_000_000)] = 1_000_000,
    ) -> None:
        at_least(1, every=every, limit=limit)
        self.name, self.greedy, self.every, self.limit = name, greedy, every, limit
        self._tree: Tree | None = None

    def __call__(self, experiment: Experiment) -> dict[str, object]:
        players, learner = experiment.opponent.players, experiment.opponent.main
        if self.name not in players:
            raise SelfplayError(
                f"eval.name is '{self.name}', but the players are {', '.join(players)}; choose one of them"
            )
        tree = self._tree = self._tree or enumerate_game(experiment.game, self.limit)
        others = dict.fromkeys(tree.roles, players[self.name])
        theirs = strategy_of(tree, others)
        mine = strategy_of(tree, dict.fromkeys(tree.roles, learner.with_temperature(0) if self.greedy else learner))
        own = expected_returns(tree, theirs)
        seated = experiment.opponent.seated
        roles = [role for role in tree.roles if seated[role] == LEARNER] or list(tree.roles)
        found: dict[str, dict[str, float]] = {"returns": {}, "own": {role: own[role] for role in roles}, "best": {}}
        for role in roles:
            mixed = tuple(p if s.role == role else q for s, p, q in zip(tree.states, mine, theirs, strict=True))
            found["returns"][role] = expected_returns(tree, mixed)[role]
            found["best"][role] = best_response(tree, theirs, role).value
        means = {"return": "returns", "own_return": "own", "best_return": "best"}
        summary: dict[str, object] = {name: fmean(found[part].values()) for name, part in means.items()}
        room = fmean(found["best"].values()) - fmean(found["own"].values())
        gained = fmean(found["returns"].values()) - fmean(found["own"].values())
        return {**summary, **({"share": gained / room} if room > 1e-9 else {}), **found}

    def gain(self, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
        return {k: float(after[k]) - float(before[k]) for k in ("return", "share") if k in before}  # type: ignore[arg-type]
