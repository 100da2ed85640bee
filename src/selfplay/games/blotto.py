"""Colonel Blotto: players simultaneously distribute soldiers over battlefields; the most soldiers win a field."""

from math import comb
from typing import Annotated

from selfplay.core import Ask, Game, Play, SelfplayError, at_least, user
from selfplay.games.rules import forfeited, illegal
from selfplay.options import Count, NotNegative, Range

MOST = 100_000  # options


class Blotto(Game):
    """Each colonel assigns all its soldiers to fields; the largest force wins a field, and a tie for it wins nothing.

    A colonel's return is the number of fields it won minus the mean over all colonels, so the game is zero-sum.

    Args:
        soldiers: soldiers per colonel, all of which must be placed.
        fields: number of battlefields.
        players: number of colonels, at least 2; the roles are colonel_1, colonel_2, ...
        forfeit: penalty for an illegal reply; keep it at least half of `fields`, or breaking the rules can be
            profitable.

    Raises:
        SelfplayError: an argument is too small, or there are more than 100,000 ways to distribute the soldiers.
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
                f"{soldiers} soldiers can be distributed over {fields} fields in {ways} ways, above the limit of "
                f"{MOST}; lower game.soldiers or game.fields"
            )
        self.soldiers, self.fields, self.forfeit = soldiers, fields, forfeit
        self.roles = tuple(f"colonel_{i + 1}" for i in range(players))
        self.options = tuple(" ".join(map(str, spread)) for spread in spreads(soldiers, fields))

    def play(self) -> Play:
        prompt = f"blotto, {len(self.roles)} colonels\n{self.soldiers} soldiers on {self.fields} fields\nyou are "
        asks = [Ask(role, user(prompt + role), options=self.options) for role in self.roles]
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
    """Every distribution of the soldiers over the fields, in descending lexicographic order."""
    if fields == 1:
        return [(soldiers,)]
    return [(n, *rest) for n in range(soldiers, -1, -1) for rest in spreads(soldiers - n, fields - 1)]
