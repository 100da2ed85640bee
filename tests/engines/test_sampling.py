"""Sampling and log-probabilities against plain transformers: no cache, no padding, one prompt at a time."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import torch
from language_models import perturb, plain_logprobs, reader, sampled
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from selfplay import devices
from selfplay.core import Ask, Batch, Episode, Reply, SelfplayError, Turn, user
from selfplay.engines import logprobs as ours
from selfplay.engines.llama.kv_sharing import PrefixShared
from selfplay.engines.logprobs import next_logprobs, reply_logprobs
from selfplay.engines.sampling import choose, uniforms
from selfplay.engines.transformers.decode import HFDecodeState, way_of
from selfplay.players.language_model import LanguageModel
from selfplay.rollout import collate

PROMPTS = [(2, 30, 31, 1, 3), (2, 8, 9, 10, 11, 12, 13, 14, 1, 3), (2, 30, 31, 1, 3), (3,)]
KEYS = ["a/0", "a/1", "a/2", "b"]


def plain_sample(
    model: PreTrainedModel, prompt: Sequence[int], uniforms: Sequence[float], temperature: float, stop: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Inverse-transform sampling by the whole sequence's forward pass for every token."""
    ids, logprobs = list(prompt), []
    for u in uniforms:
        with torch.no_grad():
            p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double() / temperature, -1)
        token, below = 0, float(p[0])
        while u >= below:
            token += 1
            below += float(p[token])
        ids.append(token)
        logprobs.append(float(p[token].log()))
        if token in stop:
            break
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_sampling_is_the_plain_loop(learner: LanguageModel, temperature: float) -> None:
    """With a stop id that is met often, so that rows leave the batch at different times."""
    stop = [1, *range(60, 75)]
    got = sampled(learner.model, PROMPTS, KEYS, temperature, 20, stop, pad=0, rows=64)
    for prompt, key, s in zip(PROMPTS, KEYS, got, strict=True):
        ids, logprobs = plain_sample(learner.model, prompt, uniforms(key, 20).tolist(), temperature, stop)
        assert list(s.ids) == ids
        assert list(s.logprobs) == pytest.approx(logprobs, abs=1e-5)
    assert len({len(s.ids) for s in got}) > 1
    assert got[0].ids != got[2].ids  # the same prompt, other dice


def test_greedy_is_generate(learner: LanguageModel, tiny: LanguageModel) -> None:
    """By chance's weights and by the embedded ones; the log-probabilities are those at temperature 1."""
    for model in (learner.model, tiny.model):
        got = sampled(model, PROMPTS, KEYS, 0, 24, [1], pad=0, rows=64)
        for prompt, s in zip(PROMPTS, got, strict=True):
            ids = torch.tensor([prompt])
            options = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": 1, "pad_token_id": 0}
            right = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
            assert list(s.ids) == right[0, len(prompt) :].tolist()
            with torch.no_grad():
                assert s.logprobs == pytest.approx(plain_logprobs(model, prompt, s.ids).tolist(), abs=1e-5)


def test_first_tokens_are_distributed_as_the_softmax(learner: LanguageModel) -> None:
    """4,000 keys against the exact distribution by a chi-square test (the keys are fixed, and so is its p)."""
    got = sampled(learner.model, [PROMPTS[0]] * 4000, [f"key/{i}" for i in range(4000)], 0.7, 1, [1], pad=0, rows=64)
    with torch.no_grad():
        logits = learner.model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].double()
    expected = 4000 * torch.softmax(logits / 0.7, -1)
    observed = torch.bincount(torch.tensor([s.ids[0] for s in got]), minlength=len(expected)).double()
    rare = expected < 5
    pooled = [torch.cat([x[~rare], x[rare].sum(0, keepdim=True)]).numpy() for x in (observed, expected)]
    assert len(pooled[0]) > 20
    assert 0.01 < stats.chisquare(*pooled).pvalue < 0.99


def test_choose_by_hand() -> None:
    """Shares 1/2, 1/4, 0, 1/4: the borders are at .5, .75, .75 and 1; what is impossible is never chosen."""
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.49999, 0.50001, 0.74999, 0.75001, 1 - 2**-53], dtype=torch.float64)
    token, logp = choose(logits, uniforms, 1.0)
    assert token.tolist() == [0, 0, 1, 1, 3, 3]
    assert logp.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    _, sharper = choose(logits[:1], uniforms[:1], 0.5)  # squares: 1/4, 1/16, 0, 1/16
    assert sharper.exp().item() == pytest.approx(2 / 3)
    token, logp = choose(torch.tensor([[0.1, 0.6, 0.3]]).log(), uniforms[:1], 0)
    assert (token.item(), logp.exp().item()) == (1, pytest.approx(0.6))
    token, _ = choose(torch.tensor([[0.0, 1.0, 0.0]]).log(), uniforms[:1], 1.0)  # the very border of an impossible one
    assert token.item() == 1


@pytest.mark.parametrize("more", [0, 160, 200, 900])
def test_choose_among_many_is_choose_among_few(more: int) -> None:
    """Impossible tokens around the possible ones change nothing, whether the vocabulary is read in blocks or not."""
    torch.manual_seed(0)
    logits, uniforms = 3 * torch.randn(500, 90), torch.rand(500, dtype=torch.float64)
    wide = torch.cat([torch.full((500, more), -torch.inf), logits, torch.full((500, more), -torch.inf)], 1)
    weights = logits.double().exp()
    right = (weights.cumsum(1) <= uniforms[:, None] * weights.sum(1, keepdim=True)).sum(1)
    token, logp = choose(wide, uniforms, 1.0)
    assert token.tolist() == (right + more).tolist()
    torch.testing.assert_close(logp, logits.log_softmax(1).gather(1, right[:, None])[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers(wrong: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = wrong
    with pytest.raises(SelfplayError, match="NaN or infinite"):
        choose(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), 1.0)
    logits[1, 3] = -torch.inf
    assert choose(logits, torch.tensor([0.5, 0.99], dtype=torch.float64), 1.0)[0].tolist() == [2, 4]


def test_dice_are_uniform_and_a_function_of_the_key() -> None:
    throws = [uniforms(f"k/{i}", 3) for i in range(2000)]
    assert uniforms("k/7", 3).tolist() == throws[7].tolist() == uniforms("k/7", 9)[:3].tolist()
    for column in range(3):
        assert stats.kstest([t[column] for t in throws], "uniform").pvalue > 0.01


# --- log-probabilities ------------------------------------------------------------------------------------------------


def random_batch(rows: int = 7) -> Batch:
    """Ragged prompts and replies of any tokens."""
    rng, turns = Random("batch"), []
    for _ in range(rows):
        prompt, reply = (tuple(rng.randrange(102) for _ in range(rng.randint(1, 12))) for _ in range(2))
        turns.append(Turn(Ask("solver", user("?")), Reply("", prompt, reply, (0.0,) * len(reply)), {}, 0.0))
    return collate([(Episode(0, []), turn) for turn in turns])


def by_row(model: PreTrainedModel, batch: Batch, temperature: float) -> Tensor:
    out = []
    for row, prompt in enumerate(batch.prompts):
        reply = batch.replies[row, batch.mask[row]]
        logits = model(input_ids=torch.cat([prompt, reply])[None]).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits / temperature, -1).gather(-1, reply[:, None])[:, 0]
        out.append(torch.nn.functional.pad(chosen, (0, batch.replies.shape[1] - len(reply))))
    return torch.stack(out)


def gradient(model: PreTrainedModel, logprobs: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)
    return list(torch.autograd.grad((weights * logprobs).sum(), list(model.parameters())))


def close(ours: list[Tensor], right: list[Tensor]) -> None:
    """To the rounding of float32: two parts in a million of the parameter's largest entry."""
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reply_logprobs_are_the_plain_ones(learner: LanguageModel, temperature: float) -> None:
    batch = random_batch()
    got, right = (
        reply_logprobs(learner.model, batch.prompts, batch.replies, batch.mask, temperature),
        by_row(learner.model, batch, temperature),
    )
    torch.testing.assert_close(got, right, atol=1e-5, rtol=0)
    assert got[~batch.mask].tolist() == [0.0] * int((~batch.mask).sum())
    close(gradient(learner.model, got), gradient(learner.model, right))


@pytest.mark.parametrize("part", [1, 30, 102])
def test_parts_of_the_vocabulary_change_nothing(
    learner: LanguageModel, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """One word and thirty at a time through the head (the last part is smaller), forwards and backwards."""
    batch = random_batch()
    expected = by_row(learner.model, batch, 0.7)
    parts: list[list[slice]] = []
    plain = ours._parts
    monkeypatch.setattr(ours, "LEAST", part)
    monkeypatch.setattr(devices, "PROCESSOR", replace(devices.PROCESSOR, logits=1))
    monkeypatch.setattr(ours, "_parts", lambda states, size: parts.append(plain(states, size)) or parts[-1])
    got = reply_logprobs(learner.model, batch.prompts, batch.replies, batch.mask, 0.7)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    close(gradient(learner.model, got), gradient(learner.model, expected))
    assert len(parts) == 2 and len(parts[0]) == -(-102 // part)


@pytest.mark.parametrize("entries", [1, 102 * 3])
def test_chunks_of_rows_change_nothing(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """A head with a bias: one and three positions at a time, which are then run again in the backward pass."""
    batch = random_batch()
    learner.model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 102))
    whole = reply_logprobs(learner.model, batch.prompts, batch.replies, batch.mask, 0.7)
    expected = gradient(learner.model, whole)
    torch.testing.assert_close(whole, by_row(learner.model, batch, 0.7), atol=1e-5, rtol=0)
    sizes: list[int] = []
    plain = ours._chosen
    monkeypatch.setattr(devices, "PROCESSOR", replace(devices.PROCESSOR, logits=entries))
    monkeypatch.setattr(ours, "_chosen", lambda head, part, *rest: sizes.append(len(part)) or plain(head, part, *rest))
    chunked = reply_logprobs(learner.model, batch.prompts, batch.replies, batch.mask, 0.7)
    assert max(sizes) == max(1, entries // 102)
    assert sum(sizes) == int(batch.mask.sum())
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=0)
    close(gradient(learner.model, chunked), expected)
    assert sum(sizes) == 2 * int(batch.mask.sum())  # once more for the gradient


def test_next_logprobs_are_the_plain_ones(learner: LanguageModel) -> None:
    got = next_logprobs(learner.model, PROMPTS, rows=3)
    for row, prompt in zip(got, PROMPTS, strict=True):
        with torch.no_grad():
            right = torch.log_softmax(learner.model(input_ids=torch.tensor([prompt])).logits[0, -1], -1)
        torch.testing.assert_close(row, right, atol=1e-5, rtol=0)


def test_what_was_sampled_is_what_is_learnt(learner: LanguageModel) -> None:
    """The sampler's log-probabilities and the learner's, at a temperature other than 1, until the weights move."""
    learner.temperature, learner.max_tokens = 0.7, 12
    asks = [Ask("solver", user(text), key=text) for text in ("sort cab", "7+5", "", "say x 3 times")]
    turns = [Turn(ask, reply, {}, 0.0) for ask, reply in zip(asks, learner.act(asks), strict=True)]
    batch = collate([(Episode(0, []), turn) for turn in turns])
    with torch.no_grad():
        torch.testing.assert_close(learner.logprobs(batch), batch.logprobs, atol=1e-5, rtol=0)
        perturb(learner.model, 0.01)
        assert float((learner.logprobs(batch) - batch.logprobs).abs().max()) > 1e-3


@pytest.mark.parametrize("decodes", [True, False])
def test_replies_that_say_the_same_are_one_row(
    learner: LanguageModel, decodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy replies never part; others part where their dice make them, and are what each is alone."""
    model = reader(learner.model, None) if decodes else learner.model
    kind, rows = PrefixShared if decodes else HFDecodeState, []
    decodes or way_of(model)  # tried out before steps are counted
    step = kind.step
    monkeypatch.setattr(kind, "step", lambda self, tokens: rows.append(len(tokens)) or step(self, tokens))
    asked, keys = [PROMPTS[0]] * 6 + [PROMPTS[1]] * 2, [f"key/{i}" for i in range(8)]
    greedy = sampled(model, asked, keys, 0, 5, [], pad=0, rows=64)
    assert rows == [2] * 4
    assert len({reply.ids for reply in greedy[:6]}) == 1 and greedy[0] == greedy[5]
    rows.clear()
    got = sampled(model, asked, keys, 0.7, 5, [], pad=0, rows=64)
    begun = [len({(p, reply.ids[:n]) for p, reply in zip(asked, got, strict=True)}) for n in range(1, 5)]
    assert rows == begun and 2 < begun[0] < begun[-1]
    for prompt, key, reply in zip(asked, keys, got, strict=True):
        [alone] = sampled(model, [prompt], [key], 0.7, 5, [], pad=0, rows=64)
        assert alone.ids == reply.ids
        assert alone.logprobs == pytest.approx(reply.logprobs, abs=1e-5)
