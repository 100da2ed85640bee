"""Memory that runs out halves what is computed at once, says so, and changes no result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from language_models import batch_for, made

from selfplay.core import Ask, SelfplayError, Turn, user
from selfplay.engines import embedded, logprobs, scores
from selfplay.out_of_memory import Rows, is_out_of_memory
from selfplay.players.language_model import LanguageModel
from selfplay.referees.reward_model import RewardModel
from selfplay.updates.policy_gradient import PolicyGradient

ERRORS = [
    torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    MemoryError(),
]
KINDS = ["accelerator", "CPU", "Python"]
ASKS = [Ask("solver", user(f"What is {a} + 4?"), key=f"{a}/{k}") for a in (3, 12, 25) for k in range(4)]


def running_out(function: Callable[..., Any], error: Exception, first: int, count: int) -> Callable[..., Any]:
    """The function, whose calls number `first` to `first + count - 1` raise."""
    calls: list[int] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if first <= len(calls) < first + count:
            raise error
        return function(*args, **kwargs)

    return broken


@pytest.mark.parametrize("error", ERRORS, ids=KINDS)
def test_replies_are_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = made(batch_size=64)
    said = policy.act(ASKS)
    rows: list[int] = []
    sample = running_out(embedded.sample, error, 1, 2)

    def noted(model: Any, prompts: Any, keys: Any, sampling: Any) -> Any:
        rows.append(sampling.batch_size)
        return sample(model, prompts, keys, sampling)

    monkeypatch.setattr(embedded, "sample", noted)
    again = policy.snapshot().with_temperature(1.0).act(ASKS)
    assert rows == [64, 6, 3] and [r.reply_ids for r in again] == [r.reply_ids for r in said]
    assert "12 rows at once; player.batch_size is 6 from now on" in capsys.readouterr().out
    policy.act(ASKS)
    assert rows[3:] == [3] and not capsys.readouterr().out, "the learner and its snapshots share the number"


def test_options_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made(batch_size=6)
    asks = [Ask("solver", user("pick"), options=("yes", "no", "perhaps"), key=str(k)) for k in range(3)]
    before = policy.probabilities(asks)
    monkeypatch.setattr(logprobs, "reply_logprobs", running_out(logprobs.reply_logprobs, ERRORS[0], 1, 2))
    torch.testing.assert_close(torch.tensor(policy.probabilities(asks)), torch.tensor(before), rtol=1e-4, atol=1e-6)
    assert policy.rows.most == 1


def test_next_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made(batch_size=64)
    prompts = [policy.render(ask.messages) for ask in ASKS]
    before = policy.next_token(prompts)
    monkeypatch.setattr(logprobs, "last_states", running_out(logprobs.last_states, ERRORS[0], 1, 1))
    torch.testing.assert_close(policy.next_token(prompts), before, rtol=1e-4, atol=1e-4)
    assert policy.rows.most == 6


def test_a_reward_models_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    referee = RewardModel("asset:tiny-rm", batch_size=8)
    turns = [Turn(ask, reply, {}, 0.0) for ask, reply in zip(ASKS, made().act(ASKS), strict=True)]
    before = referee.score(turns, {})
    monkeypatch.setattr(scores, "last_states", running_out(scores.last_states, ERRORS[0], 1, 2))
    torch.testing.assert_close(referee.score(turns, {}), before, rtol=1e-4, atol=1e-4)
    assert referee.scorer.rows == 2


def update(policy: LanguageModel, micro_batch: int) -> PolicyGradient:
    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    return PolicyGradient(policy, policy.snapshot(), optimizer=sgd, micro_batch=micro_batch)


@pytest.mark.parametrize("error", ERRORS, ids=KINDS)
@pytest.mark.parametrize("first", [2, 5], ids=["the reference's pass", "the gradient"])
def test_a_step_is_the_same(
    error: Exception, first: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second micro-batch fails, when the first has left a gradient, and so does the first of the next attempt."""
    calm, disturbed = made(), made()
    batch = batch_for(calm, ASKS)
    batch.payoffs.copy_(torch.linspace(-1, 1, len(batch)))
    expected = update(calm, 4).step(batch).metrics
    capsys.readouterr()
    monkeypatch.setattr(LanguageModel, "_logprobs", running_out(LanguageModel._logprobs, error, first, 2))
    one = update(disturbed, 4)
    found = one.step(batch).metrics
    assert one.gradient_step.micro_batch.most == 1
    assert capsys.readouterr().out.count("update.micro_batch is") == 2
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for p, q, start in zip(calm.parameters(), disturbed.parameters(), made().parameters(), strict=True):
        assert float((p - start).norm()) > 0
        assert float((p - q).norm()) <= 1e-3 * float((p - start).norm()) + 1e-7


def test_one_row_that_does_not_fit_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: Exception) -> Callable[[int], None]:
        return running_out(lambda rows: None, error, 1, 99)

    rows = Rows(8, "player.batch_size")
    with pytest.raises(torch.OutOfMemoryError):
        rows.halving(fails(ERRORS[0]), 5)
    assert rows.most == 1 and capsys.readouterr().out.count("note: ") == 2
    with pytest.raises(RuntimeError, match="shapes"):
        Rows(8, "player.batch_size").halving(fails(RuntimeError("shapes")), 5)
    assert not is_out_of_memory(SelfplayError("out of paper"))
