"""Top-k, top-p, min-p: as transformers keeps tokens, sampled and learnt with the same probabilities; texts that end."""

import pytest
import torch
from configs import config
from language_models import batch_for, made
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from selfplay.core import Ask, SelfplayError, user
from selfplay.engines.sampling import choose
from selfplay.engines.truncation import ALL, Truncation

RULES = [(5, 1.0, 0.0), (0, 0.6, 0.0), (0, 1.0, 0.1), (9, 0.8, 0.05), (500, 0.05, 0.0), (1, 1.0, 0.0)]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_tokens_that_transformers_keeps(rule: tuple[int, float, float]) -> None:
    top_k, top_p, min_p = rule
    logits = 3 * torch.randn(50, 100, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList()
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    assert torch.equal(Truncation(*rule)(logits), warpers(None, logits))


def test_what_was_said_stays() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert Truncation(2, 1.0, 0.0)(logits).isinf().tolist() == [[False, False, True, True]]
    assert Truncation(2, 1.0, 0.0)(logits, torch.tensor([3])).isinf().tolist() == [[False, False, True, False]]
    assert ALL.keeps_all and torch.equal(ALL(logits), logits)


def test_log_probabilities_are_of_what_may_be_said() -> None:
    """Shares 1/2, 1/4, 1/8, 1/8; of the two likeliest 2/3 and 1/3, and nothing else comes."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().expand(4, 4)
    uniforms = torch.tensor([0.1, 0.66, 0.67, 1 - 2**-53], dtype=torch.float64)
    token, logp = choose(logits, uniforms, 1.0, Truncation(2, 1.0, 0.0))
    assert token.tolist() == [0, 0, 1, 1]
    assert logp.exp().tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("rule", RULES[:4], ids=str)
@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}], ids=str)
def test_what_was_sampled_is_what_is_learnt(rule: tuple[int, float, float], lora: dict[str, object] | None) -> None:
    top_k, top_p, min_p = rule
    policy = made(temperature=1.5, max_tokens=12, top_k=top_k, top_p=top_p, min_p=min_p, lora=lora)
    plain = made(temperature=1.5, max_tokens=12)
    batch = batch_for(
        policy, [Ask("solver", user(text), key=text) for text in ("sort cab", "7+5", "", "say x 3 times")]
    )
    got = policy.logprobs(batch)
    torch.testing.assert_close(got.detach(), batch.logprobs, atol=1e-5, rtol=0)
    assert float((got - plain.logprobs(batch)).detach().max()) > 0.01, "what is left out makes the rest likelier"
    got.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in policy.parameters() if p.grad is not None)


def test_a_text_that_ends_a_reply() -> None:
    """It is said, so its tokens are learnt; the game reads what came before it."""
    free = made(max_tokens=30)
    asks = [Ask("solver", user(f"reverse {'abcdefgh'[n:]}"), key=f"k{n}") for n in range(6)]
    replies = free.act(asks)
    reply = replies[0]
    text = reply.text[3:5]
    assert len(text) == 2 and reply.text.index(text) == 3
    stopping = made(max_tokens=30, stop=["never", text])
    cut, *others = stopping.act(asks)
    assert cut.text == reply.text[:3]
    assert cut.reply_ids == reply.reply_ids[: len(cut.reply_ids)] and len(cut.reply_ids) < len(reply.reply_ids)
    assert free.tokenizer.decode(cut.reply_ids).endswith(text)
    for before, after in zip(replies[1:], others, strict=True):
        assert after.text == before.text.split(text)[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("player.top_k=-1", "player.top_k is -1; give a whole number"),
        ("player.top_p=0", "player.top_p is 0; give a number in"),
        ("player.min_p=2", "player.min_p is 2; give a number from 0 to 1"),
        ("player.stop=['']", "give texts of at least one character"),
        (
            "player.compute_dtype=float16",
            "player.compute_dtype is float16 over player.dtype=float32; take compute_dtype=bfloat16",
        ),
    ],
)
def test_numbers_out_of_range(override: str, words: str) -> None:
    from selfplay.building import make

    with pytest.raises(SelfplayError, match=words):
        make(config(override).player, "player")
