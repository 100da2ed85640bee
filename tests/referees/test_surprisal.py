"""Surprisal against plain log-probabilities, of sampled replies, of other players' and of choices."""

import math
from dataclasses import replace

import cli
import pytest
import torch
from bandit import ASK, table
from language_models import ASKS, made, moved, plain_logprobs

from selfplay.building import make
from selfplay.core import Reply, SelfplayError, Turn
from selfplay.parallel import Processes, using
from selfplay.players.language_model import LanguageModel
from selfplay.referees.surprisal import Surprisal


def by_hand(policy: LanguageModel, reply: Reply) -> float:
    """The mean of minus the log-probs of a reply, by one unpadded call of the model."""
    with torch.no_grad():
        return -float(plain_logprobs(policy.model, reply.prompt_ids, reply.reply_ids).mean())


def test_the_mean_per_token_of_sampled_replies(learner: LanguageModel) -> None:
    """Replies cut off at 8 tokens have no end token, and none is added; the learner has moved from the reference."""
    learner.max_tokens = 8
    reference = learner.snapshot()
    moved(learner, 1)
    players = {"learner": learner, "reference": reference}
    replies = learner.act(ASKS * 2)
    turns = [Turn(ask, reply, player="learner") for ask, reply in zip(ASKS * 2, replies, strict=True)]
    assert max(len(reply.reply_ids) for reply in replies) == 8
    for who, policy in players.items():
        expected = [by_hand(policy, reply) for reply in replies]
        for size in (384, 2):
            found = Surprisal(who, batch_size=size).score(turns, players)
            assert found.tolist() == pytest.approx(expected, abs=1e-4)
    own = [-sum(reply.logprobs) / len(reply.logprobs) for reply in replies]
    assert Surprisal("learner").score(turns, players).tolist() == pytest.approx(own, abs=1e-4)
    assert Surprisal().score(turns, players).tolist() != pytest.approx(own, abs=1e-2)


def test_the_reward_likelihood_is_the_mean_log_probability_and_the_grade_is_only_logged(learner: LanguageModel) -> None:
    """The reward of the frozen reference, not of the learner, which has moved from it."""
    learner.max_tokens = 8
    reference = learner.snapshot()
    moved(learner, 1)
    turns = [Turn(ask, reply, player="learner") for ask, reply in zip(ASKS, learner.act(ASKS), strict=True)]
    reward = make(cli.composed("reward=likelihood", "reward.parts.grade.unreadable=5").reward, "reward")
    found = reward.score(turns, {"learner": learner, "reference": reference})
    expected = [-by_hand(reference, turn.reply) for turn in turns]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert reward.metrics["surprisal"] == pytest.approx(-sum(expected) / len(expected), abs=1e-4)
    assert reward.metrics["grade"] == 5  # a judge of chance writes no grade


def test_a_teachers_text_has_the_policys_tokens(tiny: LanguageModel) -> None:
    """Tokens that another player reports are not read; the text is encoded, with its end."""
    other = Turn(ASKS[0], Reply("seven", (1, 2), (3,), (-9.0,)), player="teacher")
    encoded = tiny.encode_reply(ASKS[0], "seven")
    expected = by_hand(tiny, encoded)
    assert Surprisal().score([other, replace(other, reply=Reply("seven"))], {"reference": tiny}).tolist() == (
        pytest.approx([expected] * 2, abs=1e-4)
    )


def test_the_temperature_is_the_players() -> None:
    warm, cool = made(temperature=1.0), made(temperature=0.5)
    turn = Turn(ASKS[0], Reply("7"), player="teacher")
    assert Surprisal().score([turn], {"reference": cool}).item() < Surprisal().score([turn], {"reference": warm}).item()


def test_a_choice_is_one_token() -> None:
    policy = table()
    turns = [Turn(ASK, reply, player="learner") for reply in policy.reply_with([ASK] * 2, (0, 2))]
    turns.append(Turn(ASK, Reply("s"), player="teacher"))
    p = policy.probabilities([ASK])[0]
    expected = [-math.log(p[i]) for i in (0, 2, 3)]
    assert Surprisal("learner").score(turns, {"learner": policy}).tolist() == pytest.approx(expected, abs=1e-6)


def test_what_surprisal_cannot_be_told() -> None:
    with pytest.raises(SelfplayError, match=r"surprisal's who is 'judge'; choose one of learner, reference"):
        Surprisal("judge")
    policy = table()
    policy.logits.data[policy._row(ASK), 1] = -torch.inf
    turn = Turn(ASK, Reply("q"), player="teacher")
    with pytest.raises(SelfplayError, match=r"the reply 'q' is impossible under the reference"):
        Surprisal().score([turn], {"reference": policy})
    two = Processes()
    two.size = 2
    with using(two), pytest.raises(SelfplayError, match=r"would add states to a Tabular in one process of 2"):
        Surprisal().score([turn], {"reference": policy})
