"""The iterated prisoner's dilemma (Axelrod 1984), with a known number of rounds."""

from typing import Annotated

from selfplay.core import Ask, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import forfeited, illegal
from selfplay.options import NotNegative, Number, Range

ACTIONS = ("cooperate", "defect")


class IteratedDilemma(Game):
    """Two roles choose simultaneously in each round and see all earlier rounds; returns are means over the rounds.

    Args:
        rounds: number of rounds, known to both roles.
        temptation: T, payoff for defecting against a cooperator.
        reward: R, payoff for mutual cooperation.
        punishment: P, payoff for mutual defection.
        sucker: S, payoff for cooperating with a defector.
        forfeit: penalty for an illegal reply, in place of all earlier payoffs; keep it above -S, or breaking the rules
            can be profitable.

    Raises:
        SelfplayError: there are no rounds, or the payoffs violate T > R > P > S.
    """

    roles = ("row", "column")

    def __init__(
        self,
        rounds: Annotated[int, Range(1, 1000)] = 5,
        temptation: Number = 5.0,
        reward: Number = 3.0,
        punishment: Number = 1.0,
        sucker: Number = 0.0,
        forfeit: NotNegative = 5.0,
    ) -> None:
        at_least(1, rounds=rounds)
        if not temptation > reward > punishment > sucker:
            raise SelfplayError(
                f"the payoffs T, R, P, S are {temptation}, {reward}, {punishment}, {sucker}, but a prisoner's "
                "dilemma has T > R > P > S; change them, or play a single round with game=matrix game.name=custom"
            )
        self.rounds, self.forfeit, self.bounds = rounds, forfeit, (sucker, temptation)
        self.paid = {  # (mine, theirs) -> mine
            ("cooperate", "cooperate"): reward,
            ("cooperate", "defect"): sucker,
            ("defect", "cooperate"): temptation,
            ("defect", "defect"): punishment,
        }

    def play(self) -> Play:
        row: list[str] = []
        column: list[str] = []
        for _ in range(self.rounds):
            asks = [
                Ask("row", self._view("row", row, column), options=ACTIONS),
                Ask("column", self._view("column", column, row), options=ACTIONS),
            ]
            replies = yield asks
            if offenders := illegal(asks, replies):
                return forfeited(self.roles, offenders, self.forfeit)
            row.append(replies[0].text)
            column.append(replies[1].text)
        return {"row": self._mean(row, column), "column": self._mean(column, row)}

    def _mean(self, mine: list[str], theirs: list[str]) -> float:
        return sum(self.paid[both] for both in zip(mine, theirs, strict=True)) / self.rounds

    def _view(self, role: str, mine: list[str], theirs: list[str]) -> tuple[Message, ...]:
        paid = ", ".join(f"{a[0]}{b[0]} {earned:g}" for (a, b), earned in self.paid.items())  # cc, cd, dc, dd
        rounds = [f"round {i + 1}: {a}, {b}" for i, (a, b) in enumerate(zip(mine, theirs, strict=True))]
        now = f"round {len(mine) + 1} of {self.rounds}"
        return user("\n".join([f"iterated dilemma, you are {role}", f"mine, theirs: {paid}", *rounds, now]))
