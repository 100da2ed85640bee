"""A language model that is asked to choose: how likely each option is, what is drawn, what is learnt."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from language_models import made, plain_logprobs
from scipy import stats
from torch import Tensor

from selfplay.core import Ask, Batch, Episode, Game, Play, SelfplayError, Turn, user
from selfplay.games.matrix import MatrixGame
from selfplay.out_of_memory import Rows
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate, play, score_and_pay, turns_of
from selfplay.updates.policy_gradient import PolicyGradient
from selfplay.updates.regularizers import Off

END = 1
OPTIONS = ("a", "ab", "abcdef", "x", "no")  # of different lengths, some the beginning of others
ASK, PAIR = Ask("a", user("choose one"), OPTIONS), Ask("b", user("now"), ("yes", "no"))
FREE = Ask("a", user("write"))


def many(ask: Ask, count: int) -> list[Ask]:
    return [Ask(ask.role, ask.messages, ask.options, key=f"k/{i}") for i in range(count)]


def scaled(policy: LanguageModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """The log-probability of a whole reply at the policy's temperature, by one unpadded call of the bare model."""
    if policy.temperature == 1.0:
        return plain_logprobs(policy.model, prompt, reply).sum()
    logits = policy.model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return (logits / policy.temperature).log_softmax(-1)[range(len(reply)), list(reply)].sum()


def plain(policy: LanguageModel, ask: Ask) -> Tensor:
    """[K] log-probabilities of an ask's options: each with the end token, tempered whole, then normalised."""
    prompt = policy.render(ask.messages)
    replies = [[*policy.tokenizer.encode(option, add_special_tokens=False), END] for option in ask.options]
    wholes = [plain_logprobs(policy.model, prompt, reply).sum() for reply in replies]
    return (torch.stack(wholes) / policy.temperature).log_softmax(0)


def batch_of(policy: LanguageModel, asks: Sequence[Ask]) -> Batch:
    return collate([(Episode(0, []), Turn(a, r, {}, 0.0)) for a, r in zip(asks, policy.act(asks), strict=True)])


def gradient(policy: LanguageModel, loss: Tensor) -> Tensor:
    policy.model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


# --- how likely -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("rows", [512, 3, 1])
def test_probabilities_are_the_plain_ones(learner: LanguageModel, temperature: float, rows: int) -> None:
    learner.temperature, learner.rows = temperature, Rows(rows, "player.batch_size")
    lengths = [len(learner.tokenizer.encode(option, add_special_tokens=False)) for option in OPTIONS]
    assert len(set(lengths)) > 2
    found = learner.probabilities([PAIR, ASK, PAIR])
    for ask, p in zip((PAIR, ASK, PAIR), found, strict=True):
        with torch.no_grad():
            assert p == pytest.approx(plain(learner, ask).exp().tolist(), abs=1e-5)
        assert sum(p) == pytest.approx(1.0, abs=1e-12)
    assert max(found[1]) - min(found[1]) > 0.1  # not all alike


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_follow_the_probabilities(learner: LanguageModel, temperature: float) -> None:
    learner.temperature = temperature
    [p] = learner.probabilities([ASK])
    counts = Counter(r.text for r in learner.act(many(ASK, 4000)))
    seen = [counts[option] for option in OPTIONS]
    assert sum(seen) == 4000
    drawn = [(n, 4000 * x) for n, x in zip(seen, p, strict=True) if 4000 * x > 5]
    rest = (4000 - sum(n for n, _ in drawn), 4000 - sum(x for _, x in drawn))
    table = [*drawn, rest] if rest[1] > 1e-6 else drawn
    assert len(drawn) > 1
    chi = sum((n - x) ** 2 / x for n, x in table)
    assert float(stats.chi2.sf(chi, len(table) - 1)) > 0.001


def test_a_choice_is_one_action(learner: LanguageModel) -> None:
    """Its number, its log-probability, and what else there was; the text is the option itself."""
    for ask in (ASK, PAIR):
        [p] = learner.probabilities([ask])
        for reply in learner.act(many(ask, 12)):
            [taken], [logp] = reply.reply_ids, reply.logprobs
            assert reply.text == ask.options[taken]
            assert logp == pytest.approx(math.log(p[taken]), abs=1e-5)
            assert reply.prompt_ids == learner.render(ask.messages)
            assert [learner.tokenizer.decode(c[:-1]) for c in reply.choices] == list(ask.options)
            assert {c[-1] for c in reply.choices} == {END}


def test_luck_is_the_asks_own(learner: LanguageModel) -> None:
    asks = [*many(ASK, 6), *many(FREE, 3), *many(PAIR, 6)]
    order = [3, 14, 0, 7, 11, 5]
    learner.max_tokens = 6
    together, some = learner.act(asks), learner.act([asks[i] for i in order])
    assert [r.text for r in some] == [together[i].text for i in order]
    assert [r.choices == () for r in together] == [False] * 6 + [True] * 3 + [False] * 6
    assert len({r.text for r in together[:6]}) > 1


def test_greedy_takes_the_likeliest(learner: LanguageModel) -> None:
    for ask in (ASK, PAIR):
        [p] = learner.probabilities([ask])
        best = p.index(max(p))
        replies = learner.with_temperature(0.0).act(many(ask, 5))
        assert {r.text for r in replies} == {ask.options[best]}
        assert [r.logprobs[0] for r in replies] == pytest.approx([math.log(p[best])] * 5, abs=1e-5)
        assert learner.with_temperature(0.0).probabilities([ask]) == [tuple(float(i == best) for i in range(len(p)))]


def test_a_snapshot_says_what_it_was() -> None:
    policy = made(lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"})
    snapshot, before = policy.snapshot(), policy.probabilities([ASK])
    for p in policy.parameters():
        p.data += 0.1
    assert snapshot.probabilities([ASK]) == before != policy.probabilities([ASK])
    policy.restore(snapshot)
    assert policy.probabilities([ASK]) == before


# --- what is learnt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "choices"])
def test_learner_and_sampler_agree(learner: LanguageModel, temperature: float, mixed: bool) -> None:
    learner.temperature, learner.max_tokens = temperature, 6
    asks = [many(ASK, 1)[0], *many(FREE, 2 * mixed), *many(PAIR, 2), *many(FREE, 1 * mixed), *many(ASK, 3)]
    batch = batch_of(learner, asks)
    assert [bool(c) for c in batch.choices] == [bool(ask.options) for ask in asks]
    learnt = learner.logprobs(batch)
    assert learnt.shape == batch.mask.shape == (len(asks), 6 if mixed else 1)
    torch.testing.assert_close(learnt.detach(), batch.logprobs, atol=1e-5, rtol=0)
    assert learnt.detach()[~batch.mask].tolist() == [0.0] * int((~batch.mask).sum())
    for i in (0, len(asks) - 1):  # alone as in company
        row = learner.logprobs(batch.rows(torch.tensor([i])))
        torch.testing.assert_close(row[:, 0], learnt[i : i + 1, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_the_plain_one(learner: LanguageModel, temperature: float) -> None:
    """Through the options that were not taken as well, with as many sequences a pass as may be."""
    learner.temperature, learner.max_tokens = temperature, 5
    asks = [*many(ASK, 2), *many(FREE, 1), *many(PAIR, 2)]
    batch = batch_of(learner, asks)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.5])
    expected = torch.zeros(())
    for ask, weight, reply, mask in zip(asks, weights, batch.replies, batch.mask, strict=True):
        if ask.options:
            expected = expected + weight * plain(learner, ask)[reply[0]]
        else:
            expected = expected + weight * scaled(learner, learner.render(ask.messages), reply[mask].tolist())
    right = gradient(learner, expected)
    assert float(right.norm()) > 0.1
    for rows in (512, 2):
        learner.rows = Rows(rows, "player.batch_size")
        found = gradient(learner, (weights[:, None] * learner.logprobs(batch)).sum())
        assert float((found - right).norm() / right.norm()) < 1e-5


class Bandit(Game):
    """Whoever says "a" is paid 1, everybody else nothing."""

    roles = ("a", "b")

    def play(self) -> Play:
        [reply] = yield [ASK]
        [other] = yield [Ask("b", FREE.messages)]
        return {"a": float(reply.text == "a"), "b": float(len(other.text))}


def test_one_step_makes_what_is_paid_likelier(learner: LanguageModel) -> None:
    learner.max_tokens = 4
    update = PolicyGradient(
        policy=learner,
        reference=learner.snapshot(),
        roles=("a",),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
        regularizer=Off(),
        micro_batch=7,
    )
    episodes = play(Bandit(), {"a": learner, "b": learner}, range(64), "k", lambda i: {"a": "a", "b": "b"})
    score_and_pay(Bandit(), episodes, {}, {})
    turns = turns_of(episodes, "a")
    assert {t.payoff for _, t in turns} == {0.0, 1.0}
    [before] = learner.probabilities([ASK])
    metrics = update.step(collate(turns)).metrics
    [after] = learner.probabilities([ASK])
    paid = OPTIONS.index("a")
    assert after[paid] > before[paid] + 0.01
    assert metrics["logprob_mismatch"] < 1e-5
    assert metrics["a/kl"] == pytest.approx(0.0, abs=1e-6)


# --- written text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "said", "read"),
    [
        (None, " ab ", " ab "),
        (r"answer: (\w+)", "my answer: ab now", "ab"),
        (r"answer: (\w+) (\w+)", "answer: ab no", "ab"),  # the first group of more
        (r"ab|no", "say no, ab", "no"),  # the whole match, and the first
        (r"^ab$", "say no", "say no"),  # what does not match is read as it is
        (r"(z)", "", ""),
    ],
)
def test_what_the_game_reads(pattern: str | None, said: str, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made(choose="text", pattern=pattern)
    monkeypatch.setattr(policy.tokenizer, "decode", lambda ids, **_: said)
    asked, free = policy.act([ASK, FREE])
    assert (asked.text, free.text) == (read, said)  # the pattern is for asks with options


def test_written_replies_are_tokens(learner: LanguageModel) -> None:
    """Whatever is written, legal or not, is learnt as the tokens that it was made of."""
    learner.choose, learner.max_tokens = "text", 5
    replies = learner.act(many(ASK, 8))
    assert all(r.choices == () and len(r.reply_ids) == len(r.logprobs) <= 5 for r in replies)
    assert [r.text for r in replies] == [
        learner.tokenizer.decode(r.reply_ids, skip_special_tokens=True) for r in replies
    ]
    assert not {r.text for r in replies} <= set(OPTIONS)
    batch = batch_of(learner, many(ASK, 8))
    torch.testing.assert_close(learner.logprobs(batch).detach(), batch.logprobs, atol=1e-5, rtol=0)


def test_an_illegal_text_reaches_the_game(learner: LanguageModel) -> None:
    """Which makes it cost what it costs."""
    game = MatrixGame("g", [[0.0, 0.0], [0.0, 0.0]], rows=("up", "down"), forfeit=7.0)
    learner.choose, learner.max_tokens = "text", 5
    [episode] = play(game, {"row": learner, "column": made()}, range(1), "k")
    assert episode.turns[0].reply.text not in game.rows and episode.turns[1].reply.text in game.columns
    assert episode.returns is not None
    assert episode.returns["row"] == -7.0


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"choose": "best"}, "player.choose is 'best'; take one of likelihood, text"),
        ({"choose": "text", "pattern": "(a"}, r"player.pattern '\(a' is not a regular expression \(.*\); correct it"),
    ],
)
def test_what_is_no_way_to_choose(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        made(**changes)


def test_what_has_no_probabilities(tiny: LanguageModel) -> None:
    with pytest.raises(SelfplayError, match=r"player.choose=text has no exact probabilities.*player.choose=likelihood"):
        made(choose="text").probabilities([ASK])
    with pytest.raises(SelfplayError, match="the role 'a' was asked for free text, which has no options"):
        tiny.probabilities([FREE])


def test_a_role_that_nobody_asked_does_not_stop_the_run(tmp_path: Path) -> None:
    """Untrained, the model writes no legal move, so the first player forfeits and the second is not asked."""
    folder = cli.finished(
        tmp_path / "run", "game=kuhn", "player=tiny", "player.choose=text", "player.max_tokens=4", "steps=1",
        "episodes=4", "eval=none", "optimized_metric=loss",
    )  # fmt: skip
    assert {turn["role"] for turn in cli.lines(folder / "episodes.jsonl")} == {"chance", "first"}
