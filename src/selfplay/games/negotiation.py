"""Bargaining over items of private value (Deal or No Deal, Lewis et al. 2017, 1706.05125; Cao et al. 2018)."""

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod
from typing import Annotated

from selfplay.core import Ask, Game, Message, Play, SelfplayError, at_least, user
from selfplay.games.rules import drawn, forfeited, illegal
from selfplay.options import Count, NotEmpty, Positive, Range

MOST = 100_000  # of proposals, and of values to look through


class Negotiation(Game):
    """Two share a heap of items whose worth each knows only for oneself; they propose in turn until one accepts.

    A proposal says how many of each kind the proposer keeps; the other may accept it or propose in its turn. In the
    last round there is only "accept" and "reject". A return is the worth of what one gets; no deal is worth 0 to both.

    Args:
        items: how many there are of each kind; all see it.
        total: what the whole heap is worth to each. Chance draws each one's values, uniformly of all that come to it.
        rounds: proposals and the last answer together, first and second in turn; 2 is the ultimatum game.
        forfeit: what an illegal reply costs; above 0, or breaking the rules is no worse than no deal.

    Raises:
        SelfplayError: an option is too small or too great, or no values come to `total`; when playing, chance draws
            values that do not.
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
            raise SelfplayError(f"{list(items)} items of total {total} are too many to list; lower game.items or total")
        self.items, self.rounds, self.forfeit = tuple(items), rounds, forfeit
        self.splits = _texts(product(*(range(n + 1) for n in items)))
        self.values = _texts(v for v in product(*(range(total // n + 1) for n in items)) if _worth(v, items) == total)
        if not self.values:
            raise SelfplayError(f"no values of {list(items)} items come to the total {total}; change game.total")

    def play(self) -> Play:
        players = self.roles[1:]
        luck = Ask("chance", options=self.values)
        values = [drawn(luck, reply) for reply in (yield [luck, luck])]
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
        said = [f"{'I' if turn % 2 == me else 'they'} keep {offer}" for turn, offer in enumerate(offers)]
        lines = [f"negotiation, you are {self.roles[1 + me]}", f"items {' '.join(map(str, self.items))}"]
        return user("\n".join([*lines, f"my values {values}", *said, f"round {len(offers) + 1} of {self.rounds}"]))


def _texts(rows: Iterable[Sequence[int]]) -> tuple[str, ...]:
    return tuple(" ".join(map(str, row)) for row in rows)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def _worth(values: Sequence[int], share: Sequence[int]) -> int:
    return sum(v * n for v, n in zip(values, share, strict=True))
