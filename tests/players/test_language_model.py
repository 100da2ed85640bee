"""The language model as a policy: prompts, replies, snapshots, adapters."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from language_models import ASKS, adapted, batch_of, logprobs, made, moved, perturb, same
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfplay.core import Ask, user
from selfplay.models.load import resolve
from selfplay.out_of_memory import Rows
from selfplay.players.language_model import LanguageModel

# --- the embedded model -----------------------------------------------------------------------------------------------


def test_plain_transformers_read_the_asset(tiny: LanguageModel) -> None:
    folder = resolve("asset:tiny")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for name, p in model.named_parameters():
        assert same(p, dict(tiny.model.named_parameters())[name]), name
    text = "is 12 more than 9? Yes_no: {~}"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert sum(p.numel() for p in model.parameters()) <= 3e6
    assert sum(f.stat().st_size for f in Path(folder).rglob("*")) <= 8e6


def test_prompts_are_the_chat_templates(tiny: LanguageModel) -> None:
    messages = ({"role": "system", "content": "be brief"}, *user("2+2?"), {"role": "assistant", "content": "4"})
    right = tiny.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    assert tiny.tokenizer.decode(tiny.render(messages)) == right
    assert right == "<|system|>be brief<|end|><|user|>2+2?<|end|><|assistant|>4<|end|><|assistant|>"
    assert tiny.render(user("ab")) == (2, 16, 17, 1, 3)
    assert tiny.render(user("ab")) == (2, 16, 17, 1, 3)  # from memory
    assert tiny.render(({"role": "system", "content": "ab"},)) == (4, 16, 17, 1, 3)


def test_replies_hold_their_own_tokens(learner: LanguageModel) -> None:
    """In the order of the asks, whatever their length and however many go side by side."""
    learner.max_tokens = 12
    with torch.no_grad():
        hidden = learner.model.get_decoder()(input_ids=torch.tensor([[3]])).last_hidden_state[0, 0]
        learner.model.get_output_embeddings().weight[1] = 3 * hidden / hidden.norm()  # the end comes often
    asks = [Ask("solver", user("x" * n), key=str(n % 5)) for n in (9, 1, 30, 4, 4, 17)]
    replies = learner.act(asks)
    learner.rows = Rows(2, "player.batch_size")
    assert [r.reply_ids for r in learner.act(asks)] == [r.reply_ids for r in replies]
    for ask, reply in zip(asks, replies, strict=True):
        assert reply.prompt_ids == learner.render(ask.messages)
        assert reply.text == learner.tokenizer.decode(reply.reply_ids, skip_special_tokens=True)
        assert len(reply.logprobs) == len(reply.reply_ids) <= 12
        assert 1 not in reply.reply_ids[:-1]
        assert len(reply.reply_ids) == 12 or reply.reply_ids[-1] == 1
        assert "<|end|>" not in reply.text
    assert {reply.reply_ids[-1] == 1 for reply in replies} == {True, False}
    assert replies[3].reply_ids == replies[4].reply_ids  # the same prompt and key
    assert learner.act([]) == []


def test_stop_ids_are_the_tokenizers_and_the_configs(learner: LanguageModel) -> None:
    assert learner.stop_ids == (1,)
    learner.model.generation_config.eos_token_id = [1, 3]
    assert learner.stop_ids == (1, 3)
    learner.model.generation_config.eos_token_id = None
    assert learner.stop_ids == (1,)


def test_another_temperature_is_the_same_live_policy(learner: LanguageModel) -> None:
    greedy = learner.with_temperature(0.0)
    before = greedy.act(ASKS)
    assert greedy.model is learner.model
    assert (greedy.temperature, learner.temperature) == (0.0, 1.0)
    assert [
        r.reply_ids for r in learner.with_temperature(0.0).act([Ask("s", a.messages, key="other") for a in ASKS])
    ] == [r.reply_ids for r in before]
    perturb(learner.model, 0.1)
    assert [r.reply_ids for r in greedy.act(ASKS)] != [r.reply_ids for r in before]


# --- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_policy", [made, adapted], ids=["full", "lora"])
def test_a_snapshot_stays_what_it_was(make_policy: Callable[[], LanguageModel]) -> None:
    policy = make_policy()
    first, batch = policy.snapshot(), batch_of(policy)
    start = logprobs(policy, batch)
    moved(policy, 1)
    trained = logprobs(policy, batch)
    second = policy.snapshot()
    moved(policy, 2)
    assert same(logprobs(first, batch), start)
    assert same(logprobs(second, batch), trained)
    assert not same(trained, start)
    assert not same(logprobs(policy, batch), trained)
    assert same(logprobs(first.snapshot(), batch), start)
    assert not first.logprobs(batch).requires_grad
    assert policy.logprobs(batch).requires_grad
    assert first.with_temperature(0.5).temperature == 0.5
    assert [r.logprobs for r in second.act(ASKS)] != [r.logprobs for r in first.act(ASKS)]


@pytest.mark.parametrize("make_policy", [made, adapted], ids=["full", "lora"])
def test_a_snapshot_can_be_saved_and_not_trained(make_policy: Callable[[], LanguageModel], tmp_path: Path) -> None:
    policy = make_policy()
    moved(policy, 1)
    snapshot, batch = policy.snapshot(), batch_of(policy)
    expected = logprobs(policy, batch)
    moved(policy, 2)
    assert list(snapshot.parameters()) == []
    snapshot.save(tmp_path)
    other = make_policy()
    other.load(tmp_path)
    assert same(logprobs(other, batch), expected)


def test_an_adapters_snapshot_shares_the_frozen_weights() -> None:
    policy = adapted()
    snapshot = policy.snapshot()
    assert snapshot.model is policy.model
    trained = {n for n, p in policy.model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in policy.model.named_parameters() if "lora_" in n}
    before = {n: p.data_ptr() for n, p in policy.model.named_parameters()}
    with snapshot.own_weights():
        inside = {n: p.data_ptr() for n, p in policy.model.named_parameters()}
    assert {n for n in before if before[n] != inside[n]} == trained
    assert {n: p.data_ptr() for n, p in policy.model.named_parameters()} == before  # and back again
    with pytest.raises(KeyboardInterrupt), snapshot.own_weights():
        raise KeyboardInterrupt
    assert {n: p.data_ptr() for n, p in policy.model.named_parameters()} == before  # whatever happens


def test_a_full_snapshot_is_frozen_and_its_own() -> None:
    policy = made()
    snapshot = policy.snapshot()
    ours, theirs = ({p.data_ptr() for p in x.model.parameters()} for x in (policy, snapshot))
    assert not ours & theirs
    assert not any(p.requires_grad for p in snapshot.model.parameters())
    assert len(policy.parameters()) == len(list(policy.model.parameters()))


def test_a_fresh_adapter_changes_nothing_and_comes_from_its_seed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, again, b = adapted(0), adapted(0), adapted(1)
    assert same(torch.get_rng_state(), before)
    batch = batch_of(made())
    assert same(logprobs(a, batch), logprobs(b, batch))
    torch.testing.assert_close(logprobs(a, batch), logprobs(made(), batch), atol=1e-6, rtol=0)
    weights = [torch.cat([p.flatten() for p in x.parameters()]) for x in (a, again, b)]
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])
