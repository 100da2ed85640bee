"""The language model as a policy: prompts, snapshots, adapters, what is written and read, what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import config, perturb
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from selfplay.build import make
from selfplay.core import Ask, Batch, Episode, SelfplayError, Turn, user
from selfplay.lm.load import resolve
from selfplay.lm.logprobs import check_head
from selfplay.play import collate
from selfplay.players.language_model import LanguageModel

ASKS = [Ask("solver", user(text), key=text) for text in ("add 3 and 4", "reverse abc", "")]


def made(**changes: object) -> LanguageModel:
    options = {"temperature": 1.0, "max_tokens": 8, "rows": 512, "lora": None, "dtype": "float32", "device": "cpu"}
    return LanguageModel(**{"path": "asset:tiny", **options, "seed": 0, **changes})  # type: ignore[arg-type]


def adapted(seed: int = 0) -> LanguageModel:
    return made(lora={"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, seed=seed)


def moved(policy: LanguageModel, seed: int) -> None:
    """As if it had been trained: what may be changed is changed."""
    generator = torch.Generator().manual_seed(seed)
    for p in policy.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)


def batch_of(policy: LanguageModel) -> Batch:
    turns = [Turn(ask, reply, {}, 0.0) for ask, reply in zip(ASKS, policy.act(ASKS), strict=True)]
    return collate([Episode(0, turns)], ("solver",))


def logprobs(policy: LanguageModel, batch: Batch) -> Tensor:
    return policy.logprobs(batch).detach()


def same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b))


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
    learner.rows = 2
    assert [r.reply_ids for r in learner.act(asks)] == [r.reply_ids for r in replies]
    for ask, reply in zip(asks, replies, strict=True):
        assert reply.prompt_ids == learner.render(ask.messages)
        assert reply.text == learner.tokenizer.decode(reply.reply_ids, skip_special_tokens=True)
        assert len(reply.logprobs) == len(reply.reply_ids) <= 12
        assert 1 not in reply.reply_ids[:-1]
        assert "<|end|>" not in reply.text
    assert {reply.reply_ids[-1] == 1 for reply in replies} == {True, False}
    assert replies[3].reply_ids == replies[4].reply_ids  # the same prompt and key
    assert learner.act([]) == []


def test_stop_ids_are_the_tokenizers_and_the_configs(learner: LanguageModel) -> None:
    assert learner.stop_ids == [1]
    learner.model.generation_config.eos_token_id = [1, 3]
    assert learner.stop_ids == [1, 3]
    learner.model.generation_config.eos_token_id = None
    assert learner.stop_ids == [1]


def test_another_temperature_is_the_same_live_policy(learner: LanguageModel) -> None:
    greedy = learner.at(0.0)
    before = greedy.act(ASKS)
    assert greedy.model is learner.model
    assert (greedy.temperature, learner.temperature) == (0.0, 1.0)
    assert [r.reply_ids for r in learner.at(0.0).act([Ask("s", a.messages, key="other") for a in ASKS])] == [
        r.reply_ids for r in before
    ]
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
    assert first.at(0.5).temperature == 0.5
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
    with snapshot._weights():
        inside = {n: p.data_ptr() for n, p in policy.model.named_parameters()}
    assert {n for n in before if before[n] != inside[n]} == trained
    assert {n: p.data_ptr() for n, p in policy.model.named_parameters()} == before  # and back again
    with pytest.raises(KeyboardInterrupt), snapshot._weights():
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


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_policy", [made, adapted], ids=["full", "lora"])
def test_what_is_saved_is_loaded(make_policy: Callable[[], LanguageModel], tmp_path: Path) -> None:
    policy, other = make_policy(), make_policy()
    moved(policy, 1)
    policy.save(tmp_path)
    batch = batch_of(policy)
    assert not same(logprobs(other, batch), logprobs(policy, batch))
    other.load(tmp_path)
    assert same(logprobs(other, batch), logprobs(policy, batch))
    assert all(p.requires_grad for p in other.parameters())
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == policy.tokenizer.chat_template


def test_a_saved_model_is_a_player(tmp_path: Path) -> None:
    policy = made()
    moved(policy, 1)
    policy.save(tmp_path)
    batch = batch_of(policy)
    assert same(logprobs(made(path=str(tmp_path)), batch), logprobs(policy, batch))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "has no model.safetensors"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "model.safetensors is broken"),
    ],
    ids=["missing", "torn"],
)
def test_a_broken_checkpoint_is_told(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    policy = made()
    policy.save(tmp_path)
    spoil(tmp_path / "model.safetensors")
    with pytest.raises(SelfplayError, match=told):
        policy.load(tmp_path)


def test_a_checkpoint_of_another_player_is_told(tmp_path: Path) -> None:
    adapted().save(tmp_path / "lora")
    made().save(tmp_path / "full")
    shutil.copy(tmp_path / "full" / "model.safetensors", tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(SelfplayError, match="does not fit the model"):
        adapted().load(tmp_path / "lora")
    with pytest.raises(SelfplayError, match=r"has no adapter_model\.safetensors"):
        adapted().load(tmp_path / "full")


@pytest.mark.parametrize("rank", [8, 2])
def test_an_adapter_of_another_rank_is_told(tmp_path: Path, rank: int) -> None:
    made(lora={"r": rank, "lora_alpha": 8, "target_modules": "all-linear"}).save(tmp_path)
    with pytest.raises(SelfplayError, match="does not fit the model"):
        adapted().load(tmp_path)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_told(tiny: LanguageModel) -> None:
    """Context 512, 48 of them for the reply and 3 for the template: 461 characters fit, 462 do not."""
    assert len(tiny.render(user("x" * 461))) == 464
    with pytest.raises(SelfplayError, match=r"a prompt of 465 tokens and player\.max_tokens=48 exceed .* 512"):
        tiny.render(user("x" * 462))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"path": "asset:huge"}, r"no embedded model 'asset:huge' \(there are: .*asset:tiny"),
        ({"path": "/nowhere/at/all"}, "the tokenizer '/nowhere/at/all' cannot be loaded"),
        ({"temperature": 0.0}, "player.temperature is 0.0"),
    ],
)
def test_what_cannot_play_is_told(changes: dict[str, object], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        made(**changes)


@pytest.fixture
def folder(tiny: LanguageModel, tmp_path: Path) -> Path:
    tiny.save(tmp_path)
    return tmp_path


def test_a_model_file_that_is_torn_is_told(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(SelfplayError, match=r"the model '.*' cannot be loaded"):
        made(path=str(folder))


def test_a_model_without_chat_template_is_told(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SelfplayError, match="has no chat template"):
        made(path=str(folder))


def test_a_tokenizer_without_end_is_told(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(SelfplayError, match="no end token"):
        made(path=str(folder))


def test_a_head_that_scales_is_seen(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_head(learner.model)
    plain = type(learner.model).forward

    def scaled(self: PreTrainedModel, **inputs: object) -> object:
        out = plain(self, **inputs)
        out.logits = 2.0 * out.logits
        return out

    monkeypatch.setattr(type(learner.model), "forward", scaled)
    assert not check_head(learner.model)
    with pytest.raises(SelfplayError, match="scales or caps its logits"):
        made()


@pytest.mark.parametrize("name", ["tiny", "tiny_lora"])
def test_the_yamls_make_players(name: str) -> None:
    policy = make(config(f"player={name}", "seed=3").player, "player")
    assert policy.lora == (name == "tiny_lora")
    assert len(policy.parameters()) > 0
