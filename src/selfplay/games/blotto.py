"""Colonel Blotto: soldiers are spread over battlefields, all at once; the most soldiers win a field."""

from math import comb
from typing import Annotated

from selfplay.core import Ask, Game, Play, SelfplayError, at_least, user
from selfplay.games.rules import forfeited, illegal
from selfplay.options import Count, NotNegative, Range

MOST = 100_000  # options


class Blotto(Game):
    """Every colonel says how many soldiers go to each field; a field that is tied at the top is won by nobody.

    A colonel earns the fields that it won minus the mean of what all colonels won, so the game is zero-sum.

    Args:
        soldiers: of each colonel; all must be sent.
        fields: battlefields.
        players: colonels, 2 or more; the roles are colonel_1, colonel_2, ...
        forfeit: what an illegal reply costs; at least half of `fields`, or breaking the rules may pay.

    Raises:
        SelfplayError: an option is too small, or there are more than 100,000 ways to spread the soldiers.
    """

    zero_sum = True

    def __init__(
        self,
        soldiers: Count = 5,
        fields: Count = 3,
        players: Annotated[int, Range(2, 100)] = 2,
        forfeit: NotNegative = 3.0,
    ) -> None:
        at_least(1, soldiers=soldiers, fields=fields)
        at_least(2, players=players)
        if (ways := comb(soldiers + fields - 1, fields - 1)) > MOST:
            raise SelfplayError(
                f"{soldiers} soldiers can be spread over {fields} fields in {ways} ways, but at most {MOST} are "
                "offered; lower game.soldiers or game.fields"
            )
        self.soldiers, self.fields, self.forfeit = soldiers, fields, forfeit
        self.roles = tuple(f"colonel_{i + 1}" for i in range(players))
        self.options = tuple(" ".join(map(str, spread)) for spread in spreads(soldiers, fields))

    def play(self) -> Play:
        told = f"blotto, {len(self.roles)} colonels\n{self.soldiers} soldiers on {self.fields} fields\nyou are "
        asks = [Ask(role, user(told + role), options=self.options) for role in self.roles]
        replies = yield asks
        if offenders := illegal(asks, replies):
            return forfeited(self.roles, offenders, self.forfeit)
        won = dict.fromkeys(self.roles, 0)
        for field in zip(*(map(int, reply.text.split()) for reply in replies), strict=True):
            if field.count(max(field)) == 1:
                won[self.roles[field.index(max(field))]] += 1
        mean = sum(won.values()) / len(won)
        return {role: fields - mean for role, fields in won.items()}


def spreads(soldiers: int, fields: int) -> list[tuple[int, ...]]:
    """Every way to send all soldiers to the fields, most to the first field first."""
    if fields == 1:
        return [(soldiers,)]
    return [(n, *rest) for n in range(soldiers, -1, -1) for rest in spreads(soldiers - n, fields - 1)]
