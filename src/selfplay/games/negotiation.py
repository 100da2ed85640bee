"""Bargaining over items of private value (Deal or No Deal, Lewis et al. 2017, 1706.05125; Cao et al. 2018)."""

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Annotated

from selfplay.core import Ask, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import chance_outcome, forfeited, illegal
from selfplay.options import Count, NotEmpty, Positive, Range

MOST = 100_000  # largest number of proposals, and of candidate values to search


class Negotiation(Game):
    """Two roles divide a set of items with private values by alternating proposals until one accepts.

    A proposal states how many items of each type the proposer keeps; the other role accepts it or makes a
    counterproposal. The last round allows only "accept" and "reject". The return of a role is the value of its items
    under its own values; without a deal it is 0.

    Args:
        items: number of items of each type, public.
        total: value of all items together to each role. Chance samples each role's values uniformly among those that
            sum to it.
        rounds: number of turns, including the last answer; "first" and "second" alternate. 2 is the ultimatum game.
        forfeit: penalty for an illegal reply, above 0, so that breaking the rules is worse than no deal.

    Raises:
        SelfplayError: an argument is out of range, or no values sum to `total`.
        SelfplayError (when playing): chance replies with invalid values.
    """

    roles = ("chance", "first", "second")

    def __init__(
        self,
        items: Annotated[Sequence[Count], NotEmpty()] = (2, 1, 1),
        total: Count = 4,
        rounds: Annotated[int, Range(2, 1000)] = 3,
        forfeit: Positive = 4.0,
    ) -> None:
        at_least(1, total=total, **{f"item {kind + 1}": count for kind, count in enumerate(items)})
        at_least(2, rounds=rounds)
        if max(prod(n + 1 for n in items), prod(total // n + 1 for n in items)) > MOST:
            raise SelfplayError(
                f"items {list(items)} with total {total} have more than {MOST} proposals or values; "
                "lower game.items or game.total"
            )
        self.items, self.rounds, self.forfeit = tuple(items), rounds, forfeit
        self.splits = _texts(product(*(range(n + 1) for n in items)))
        self.values = _texts(v for v in product(*(range(total // n + 1) for n in items)) if _worth(v, items) == total)
        if not self.values:
            raise SelfplayError(f"no values of the items {list(items)} sum to the total {total}; change game.total")

    def play(self) -> Play:
        players = self.roles[1:]
        deal = Ask("chance", options=self.values)
        values = [chance_outcome(deal, reply) for reply in (yield [deal, deal])]
        offers: list[str] = []
        for turn in range(self.rounds):
            me = turn % 2
            moves = self.splits if turn + 1 < self.rounds else ("reject",)
            ask = Ask(players[me], self._view(me, values[me], offers), options=("accept", *moves) if offers else moves)
            [reply] = yield [ask]
            if offenders := illegal([ask], [reply]):
                return forfeited(players, offenders, self.forfeit)
            if reply.text in ("accept", "reject"):
                break
            offers.append(reply.text)
        if reply.text == "reject":
            return dict.fromkeys(players, 0.0)
        kept = _numbers(offers[-1])
        left = [n - k for n, k in zip(self.items, kept, strict=True)]
        shares = (left, kept) if me == 0 else (kept, left)
        return {p: float(_worth(_numbers(v), s)) for p, v, s in zip(players, values, shares, strict=True)}

    def _view(self, me: int, values: str, offers: Sequence[str]) -> tuple[Message, ...]:
        history = [f"{'I' if turn % 2 == me else 'they'} keep {offer}" for turn, offer in enumerate(offers)]
        lines = [f"negotiation, you are {self.roles[1 + me]}", f"items {' '.join(map(str, self.items))}"]
        return user("\n".join([*lines, f"my values {values}", *history, f"round {len(offers) + 1} of {self.rounds}"]))


def _texts(rows: Iterable[Sequence[int]]) -> tuple[str, ...]:
    return tuple(" ".join(map(str, row)) for row in rows)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def _worth(values: Sequence[int], share: Sequence[int]) -> int:
    return sum(v * n for v, n in zip(values, share, strict=True))
