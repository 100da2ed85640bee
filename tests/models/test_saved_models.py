"""Whole models on disk, judged by transformers: what is saved is read there and here, and what is missing is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import saved
from language_models import batch_of, logprobs, made, moved, same
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from selfplay.core import SelfplayError
from selfplay.models import checkpoints
from selfplay.models.adapters import Adapter
from selfplay.referees.reward_model import RewardModel

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
MIXTURES: dict[str, dict[str, Any]] = {
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": []},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "n_shared_experts": 1, "head_dim": 8,
    },
}  # fmt: skip
IDS = torch.arange(5, 29)[None]


def model_of(kind: str) -> PreTrainedModel:
    """A small model, whose buffers are not what they begin with either."""
    config = AutoConfig.for_model(kind, **{**SIZES, **MIXTURES[kind]})
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    stir(model, 0)
    return model


@torch.no_grad()
def stir(model: torch.nn.Module, seed: int) -> None:
    """Move every weight and every persistent buffer."""
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for value in model.state_dict().values():
        if value.is_floating_point() and value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            value += 0.1 * torch.randn(value.shape, generator=generator)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("kind", MIXTURES)
def test_converted_weights_are_read_back(kind: str, tmp_path: Path) -> None:
    model, other = model_of(kind), model_of(kind)
    stir(other, 1)
    kept = {name: id(value) for name, value in other.state_dict(keep_vars=True).items()}
    checkpoints.save(model, tmp_path)
    assert not same(logits(model), logits(other))
    checkpoints.load(other, tmp_path)
    assert same(logits(other), logits(model))
    assert {n: id(v) for n, v in other.state_dict(keep_vars=True).items()} == kept, "an optimizer holds them"
    assert same(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    stir(other, 2)
    checkpoints.copy_weights(model, other)
    assert all(same(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", MIXTURES)
def test_published_tensors_are_those_of_a_file(kind: str, tmp_path: Path) -> None:
    """In name, dtype and value: experts that transformers stacks are taken apart."""
    model = model_of(kind)
    checkpoints.save(model, tmp_path)
    assert_written(model, tmp_path)


def test_published_tensors_of_tied_heads(tmp_path: Path) -> None:
    """Each value once; a buffer is among them unless it is not persistent, and nothing that the model leaves out."""
    model = made().model
    model.model.norm.register_buffer("shift", torch.ones(3))
    model.model.norm.register_buffer("passing", torch.ones(3), persistent=False)
    model.model.norm.register_buffer("unsaved", torch.ones(3))
    model._keys_to_ignore_on_save = ["model.norm.unsaved"]
    checkpoints.save(model, tmp_path)
    assert_written(model, tmp_path)
    found = checkpoints.published(model)
    assert "model.norm.shift" in found and not {"model.norm.passing", "model.norm.unsaved", "lm_head.weight"} & {*found}


def assert_written(model: PreTrainedModel, folder: Path) -> None:
    """The published tensors are those in the only file of a folder."""
    [file] = folder.glob("*.safetensors")
    found, written = checkpoints.published(model), load_file(file)
    assert found.keys() == written.keys()
    assert all(found[name].dtype == written[name].dtype and same(found[name], written[name]) for name in written)


def test_a_mixture_is_a_player(tmp_path: Path) -> None:
    saved("llama3", tmp_path)  # for its tokenizer
    model_of("olmoe").save_pretrained(tmp_path)
    policy, other = (made(path=str(tmp_path)) for _ in range(2))
    start = policy.snapshot()
    moved(policy, 1)
    batch = batch_of(policy)
    policy.save(tmp_path / "next")
    other.load(tmp_path / "next")
    assert same(logprobs(other, batch), logprobs(policy, batch))
    kept = other.snapshot()
    other.restore(start)
    assert not same(logprobs(other, batch), logprobs(policy, batch))
    other.restore(kept)
    assert same(logprobs(other, batch), logprobs(policy, batch))


def test_buffers_are_part_of_a_snapshot() -> None:
    policy = made()
    policy.model.model.norm.register_buffer("shift", torch.zeros(3))
    start = policy.snapshot()
    policy.model.model.norm.shift += 1
    kept = policy.snapshot()
    policy.restore(start)
    assert policy.model.model.norm.shift.tolist() == [0.0] * 3
    policy.restore(kept)
    assert policy.model.model.norm.shift.tolist() == [1.0] * 3


def test_a_model_in_several_files_is_read(tmp_path: Path) -> None:
    policy, other = made(), made()
    moved(policy, 1)
    policy.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    policy.model.save_pretrained(tmp_path, max_shard_size="1MB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 2
    other.load(tmp_path)
    batch = batch_of(policy)
    assert same(logprobs(other, batch), logprobs(policy, batch))
    files[1].unlink()
    with pytest.raises(SelfplayError, match=rf"the checkpoint {tmp_path} cannot be read \(.*{files[1].name}"):
        other.load(tmp_path)


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made().save(tmp_path)
    return tmp_path


def changed(folder: Path, **weights: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    found: dict[str, Any] = {**load_file(file), **weights}
    save_file({name: value for name, value in found.items() if value is not None}, file, metadata={"format": "pt"})


LOST = {"model.layers.1.mlp.up_proj.weight": None}
BENT = {"model.norm.weight": torch.ones(7)}


def test_a_model_that_lacks_weights_is_refused_by_name(folder: Path) -> None:
    policy = made()
    before = batch_of(policy)
    weights = logprobs(policy, before)
    changed(folder, **LOST)
    with pytest.raises(
        SelfplayError, match=r"incomplete for LlamaForCausalLM \(missing: model\.layers\.1\.mlp\.up_proj"
    ):
        made(path=str(folder))
    with pytest.raises(SelfplayError, match=r"does not fit the model \(missing: model\.layers\.1\.mlp\.up_proj"):
        policy.load(folder)
    assert same(logprobs(policy, before), weights), "nothing was read"


def test_a_weight_of_another_shape_is_refused_by_name(folder: Path) -> None:
    changed(folder, **BENT)
    with pytest.raises(SelfplayError, match=r"of another shape: model\.norm\.weight \[7\] instead of \[128\]"):
        made(path=str(folder))
    with pytest.raises(SelfplayError, match=r"of another shape: model\.norm\.weight \[7\] instead of \[128\]"):
        made().load(folder)


def test_a_weight_too_many_is_told(folder: Path) -> None:
    changed(folder, more=torch.ones(1))
    with pytest.warns(UserWarning, match="has weights that LlamaForCausalLM does not use: more"):
        made(path=str(folder))
    with pytest.raises(SelfplayError, match=r"does not fit the model \(unknown: more\)"):
        made().load(folder)


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    for name, size in (("one", 32), ("other", 64)):
        saved("llama3", tmp_path / name, intermediate_size=size)
    with pytest.raises(SelfplayError, match=r"down_proj\.weight is \[32, 64\] in the checkpoint and \[32, 32\]"):
        made(path=str(tmp_path / "one")).load(tmp_path / "other")


# --- reward models ----------------------------------------------------------------------------------------------------


def judge(path: Path | str) -> RewardModel:
    return RewardModel(str(path), 8, {}, False, "sdpa", "float32", "cpu")


def test_a_reward_model_without_head_is_refused(tmp_path: Path) -> None:
    saved("llama3", tmp_path, reward=True)
    judge(tmp_path)
    changed(tmp_path, **{"score.weight": None})
    with pytest.raises(
        SelfplayError, match=r"incomplete for LlamaForSequenceClassification \(missing: score\.weight\)"
    ):
        judge(tmp_path)


def test_a_policy_is_no_reward_model(folder: Path) -> None:
    with pytest.raises(SelfplayError, match=r"missing: score\.weight"):
        judge(folder)


PAIRS = [("2 + 2?", "4"), ("Hello!", "Good day to you, and to all of yours.")]


def test_a_reward_adapter_is_read(tmp_path: Path) -> None:
    """The base model has no head at all; it comes with the adapter."""
    base = tmp_path / "base"
    saved("llama3", base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).eval()
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["score"]}
    adapter = Adapter(model, lora, 0, task="SEQ_CLS")
    stir(torch.nn.ParameterList(p for p in adapter.model.parameters() if p.requires_grad), 1)
    adapter.save(tmp_path / "adapter")
    referee = judge(tmp_path / "adapter")
    ids = [referee.conversations.fitted(pair)[0] for pair in PAIRS]
    adapter.model.config.get_text_config().pad_token_id = -1
    right = torch.stack([adapter.model(input_ids=torch.tensor([i])).logits[0, 0] for i in ids]).detach()
    torch.testing.assert_close(referee.logits(PAIRS), right, atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in referee.model.parameters())
    bare = Adapter(AutoModelForCausalLM.from_pretrained(base), {"r": 4, "target_modules": ["q_proj"]}, 0)
    bare.save(tmp_path / "bare")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "bare")
    with pytest.raises(SelfplayError, match=r"missing: .*score|has score\.weight, which would be initialised randomly"):
        judge(tmp_path / "bare")


@pytest.mark.parametrize(("kind", "lost"), [("youtu", r"embed_tokens\.weight"), ("zaya", r"gate\.balancing_biases")])
def test_what_transformers_would_draw_anew_at_each_reading_is_told(kind: str, lost: str) -> None:
    """It initialises a part of these models, although the file holds it."""
    import architectures

    model = architectures.model_of(kind)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SelfplayError, match=rf"transformers reinitialises model\..*{lost} of .*train an adapter"):
        checkpoints.check_kept(model, "x")
    assert all(same(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "nemotron_h", "qwen3_next", "gemma3", "bart", "qwen3"])
def test_that_trial_leaves_every_weight_as_it_was(kind: str) -> None:
    """Initialising a mixer initialises the layers within it; here no weight says that it was read from a file."""
    import architectures

    model = architectures.model_of(kind)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoints.check_kept(model, "x")
    assert all(same(value, kept[name]) for name, value in model.state_dict().items())
    assert not any(hasattr(p, "_is_hf_initialized") for p in model.parameters())


@pytest.mark.parametrize("kind", ["youtu", "zaya"])
def test_a_checkpoint_that_is_read_otherwise_than_it_is_held_is_refused(kind: str, tmp_path: Path) -> None:
    import architectures

    model, other = architectures.model_of(kind), architectures.model_of(kind, seed=1)
    stir(model, 3)
    checkpoints.save(model, tmp_path / "it")
    kept = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(SelfplayError, match=r"transformers loads weights that differ from those in .*train an adapter"):
        checkpoints.load(other, tmp_path / "it")
    assert all(same(value, kept[name]) for name, value in other.state_dict().items())
