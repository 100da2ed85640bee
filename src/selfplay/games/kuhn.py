"""Kuhn poker (Kuhn 1950): three cards, one chip each, one bet."""

from itertools import permutations

from selfplay.core import Ask, Game, Play, user
from selfplay.games.rules import chance_outcome, forfeited, illegal
from selfplay.options import NotNegative

CARDS = "JQK"
DEALS = tuple(" ".join(pair) for pair in permutations(CARDS, 2))
ACTIONS = ("pass", "bet")


class Kuhn(Game):
    """Both players ante 1 and get one of J, Q, K, then pass or bet 1 in turn; passing after a bet folds.

    The higher card wins the pot. The game value is -1/18 for the first player; uniform play has a NashConv of 11/12.

    Args:
        forfeit: penalty for an illegal reply; keep it at least 2, the largest possible loss, or breaking the rules can
            be profitable.
    """

    roles = ("chance", "first", "second")
    zero_sum = True
    bounds = (-2.0, 2.0)

    def __init__(self, forfeit: NotNegative = 2.0) -> None:
        self.forfeit = forfeit

    def play(self) -> Play:
        players = self.roles[1:]
        ask = Ask("chance", options=DEALS)
        [deal] = yield [ask]
        cards = chance_outcome(ask, deal).split()
        bets: list[str] = []
        while bets not in (["pass", "pass"], ["bet", "pass"], ["bet", "bet"]) and len(bets) < 3:
            turn = len(bets) % 2
            seen = f"kuhn poker\ncard {cards[turn]}\nbets: {' '.join(bets) or 'none'}"
            ask = Ask(players[turn], user(seen), options=ACTIONS)
            [reply] = yield [ask]
            if offenders := illegal([ask], [reply]):
                return forfeited(players, offenders, self.forfeit)
            bets.append(reply.text)
        if bets[-2:] == ["bet", "pass"]:  # the player who passed folds
            first = 1.0 if len(bets) == 2 else -1.0
        else:
            stake = 2.0 if "bet" in bets else 1.0
            first = stake if CARDS.index(cards[0]) > CARDS.index(cards[1]) else -stake
        return {"first": first, "second": -first}
