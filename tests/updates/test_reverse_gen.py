"""ReverseGen's exploration on a table: where DPO on failing against passing questions ends."""

from functools import partial

import pytest
import torch
from bandit import ASK, table

from selfplay.core import Episode, Turn
from selfplay.games.challenger_rewards import reverse_gen
from selfplay.rollout import collate
from selfplay.updates.pairs import winners_and_losers
from selfplay.updates.pairwise import Pairwise

FAILING = (0.1, 0.4, 0.7, 0.95)  # the probability that the target fails each of four questions


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_it_ends_at_the_odds_of_failing(beta: float) -> None:
    """pi_ref (f / (1 - f))^(1 / beta), normalised: questions i and j are a pair with probability f_i (1 - f_j)."""
    policy = table(spread=1.0)
    replies, turns = policy.reply_with([ASK] * 4, range(4)), []
    for reply, failing in zip(replies, FAILING, strict=True):
        for passed, weight in ((0.0, failing), (1.0, 1 - failing)):
            pay = reverse_gen([passed], [0.0], ["a"], invalid=False)
            turns.append((Episode(0, [], weight=weight), Turn(ASK, reply, payoff=pay)))
    odds = torch.tensor([f / (1 - f) for f in FAILING])
    wanted = (policy.logits[0] + odds.log() / beta).log_softmax(0)
    sgd = partial(torch.optim.SGD, lr=30.0 / beta**2)
    rule = Pairwise(policy, policy.snapshot(), None, sgd, pairs=winners_and_losers, beta=beta, max_grad_norm=1e9)
    batch = collate(turns)
    for _ in range(300):
        rule.step(batch)
    torch.testing.assert_close(policy.logits[0].log_softmax(0), wanted, atol=1e-4, rtol=0)
