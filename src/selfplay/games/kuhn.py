"""Kuhn poker (Kuhn 1950): three cards, one chip each, one bet."""

from itertools import permutations

from selfplay.core import Ask, Game, Play, user
from selfplay.games.rules import drawn, forfeited, illegal
from selfplay.options import NotNegative

CARDS = "JQK"
DEALS = tuple(" ".join(pair) for pair in permutations(CARDS, 2))
ACTIONS = ("pass", "bet")


class Kuhn(Game):
    """Each antes 1 and is dealt one of J, Q, K; they pass or bet 1 in turn; after a bet, passing folds.

    The higher card wins the pot. The value is -1/18 for the first; uniform play has a NashConv of 11/12.

    Args:
        forfeit: what an illegal reply costs; at least 2, the most that can be lost, or breaking the rules pays.
    """

    roles = ("chance", "first", "second")
    zero_sum = True

    def __init__(self, forfeit: NotNegative = 2.0) -> None:
        self.forfeit = forfeit

    def play(self) -> Play:
        players = self.roles[1:]
        luck = Ask("chance", options=DEALS)
        [deal] = yield [luck]
        cards = drawn(luck, deal).split()
        bets: list[str] = []
        while bets not in (["pass", "pass"], ["bet", "pass"], ["bet", "bet"]) and len(bets) < 3:
            turn = len(bets) % 2
            seen = f"kuhn poker\ncard {cards[turn]}\nbets: {' '.join(bets) or 'none'}"
            ask = Ask(players[turn], user(seen), options=ACTIONS)
            [reply] = yield [ask]
            if offenders := illegal([ask], [reply]):
                return forfeited(players, offenders, self.forfeit)
            bets.append(reply.text)
        if bets[-2:] == ["bet", "pass"]:  # whoever passed folds
            first = 1.0 if len(bets) == 2 else -1.0
        else:
            stake = 2.0 if "bet" in bets else 1.0
            first = stake if CARDS.index(cards[0]) > CARDS.index(cards[1]) else -stake
        return {"first": first, "second": -first}
