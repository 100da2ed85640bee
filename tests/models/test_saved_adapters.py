"""Adapters on disk, judged by peft: what is saved plays the same there and here, whatever kind of LoRA it is."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import saved
from language_models import batch_of, logprobs, made, moved, same
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, OlmoeConfig, OlmoeForCausalLM, PreTrainedModel

from selfplay.core import SelfplayError
from selfplay.models.load import resolve
from selfplay.players.language_model import LanguageModel

LINEAR = {"r": 4, "target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "list": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["up_proj"], "layers_to_transform": [0, 2]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "pissa": {"init_lora_weights": "pissa"},
    "fast pissa": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "pissa in patterns": {
        "init_lora_weights": "pissa",
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    },
    "pissa of dora": {"init_lora_weights": "pissa", "use_dora": True},
    "pissa beside a module": {"init_lora_weights": "pissa", "modules_to_save": ["norm"]},
    "module": {"modules_to_save": ["norm", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "tokens": {"trainable_token_indices": [5, 7]},
}
BIASED: dict[str, dict[str, Any]] = {
    "every bias": {"bias": "all"},
    "its own biases": {"bias": "lora_only", "target_modules": ["q_proj"]},
    "bias of LoRA": {"lora_bias": True, "target_modules": ["q_proj"]},
}
IDS = torch.arange(5, 29)[None]


def read_by_peft(base: str, folder: Path) -> torch.Tensor:
    """The logits of the base model, as it was published, under an adapter's folder: nothing of ours."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        logits: torch.Tensor = PeftModel.from_pretrained(model, folder).eval()(IDS).logits
    return logits


@torch.no_grad()
def logits(policy: LanguageModel) -> torch.Tensor:
    with policy.forward_passes():
        found: torch.Tensor = policy.model(input_ids=IDS).logits
    return found


def check_kind(path: str, lora: dict[str, Any], folder: Path) -> None:
    """Saved, read by peft, loaded over a fresh one and over a trained one, snapshotted and restored."""
    policy, other = (made(path=path, lora={**LINEAR, **lora}) for _ in range(2))
    first = policy.snapshot()
    before = logits(policy)
    moved(policy, 1)
    now = logits(policy)
    assert float((now - before).abs().max()) > 0.1
    policy.save(folder)
    torch.testing.assert_close(read_by_peft(resolve(path), folder), now, atol=5e-5, rtol=1e-5)
    other.load(folder)
    assert same(logits(other), now)
    moved(other, 2)
    other.load(folder)
    assert same(logits(other), now)
    kept = other.snapshot()
    other.restore(first)
    assert same(logits(other), before) and same(logits(kept), now) and same(logits(first), before)
    kept.save(folder / "kept")
    assert (folder / "kept" / "adapter_model.safetensors").read_bytes() == (
        folder / "adapter_model.safetensors"
    ).read_bytes()
    other.restore(kept)
    assert same(logits(other), now)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_lora_is_saved_as_it_is(kind: str, tmp_path: Path) -> None:
    check_kind("asset:tiny", KINDS[kind], tmp_path)


@pytest.mark.parametrize("kind", BIASED)
def test_biases_are_saved(kind: str, tmp_path: Path) -> None:
    saved("qwen2", tmp_path / "base")
    check_kind(str(tmp_path / "base"), BIASED[kind], tmp_path / "adapter")


def experts(folder: Path) -> PreTrainedModel:
    """A mixture of experts, whose published weights have other names than the model's."""
    saved("llama3", folder)
    config = OlmoeConfig(
        vocab_size=512, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    model = OlmoeForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def test_experts_are_saved(tmp_path: Path) -> None:
    experts(tmp_path / "base")
    lora = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    check_kind(str(tmp_path / "base"), lora, tmp_path / "adapter")


SAVE = """
import sys
from language_models import made, moved
policy = made(lora={"r": 4, "target_modules": "all-linear", "exclude_modules": ["lm_head", "up_proj"]})
moved(policy, 1)
policy.save(sys.argv[1])
"""


def test_folders_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / seed)], env=env, check=True, capture_output=True)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / seed).iterdir()} for seed in "12")
    assert one == other and {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= one.keys()


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained adapter."""
    policy = made(lora={**LINEAR, "lora_alpha": 8})
    moved(policy, 1)
    policy.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def changed(folder: Path, **weights: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    found: dict[str, Any] = {**load_file(file), **weights}
    save_file({name: value for name, value in found.items() if value is not None}, file, metadata={"format": "pt"})


def test_missing_and_foreign_weights_are_named(folder: Path) -> None:
    policy = made(lora={**LINEAR, "lora_alpha": 8})
    whole = load_file(folder / "adapter_model.safetensors")
    name, shape = next((n, v.shape) for n, v in whole.items() if n.endswith("0.mlp.up_proj.lora_B.weight"))
    changed(folder, **{name: None})
    with pytest.raises(SelfplayError, match=r"does not fit the model \(missing: .*layers\.0\.mlp\.up_proj\.lora_B"):
        policy.load(folder)
    changed(folder, **{name: torch.zeros(shape), "base_model.model.foo.lora_A.weight": torch.zeros(2)})
    with pytest.raises(SelfplayError, match=r"does not fit the model \(unknown: .*foo\.lora_A"):
        policy.load(folder)
    base = "base_model.model.model.norm.weight"
    own = policy.model.state_dict()[base]
    changed(folder, **{"base_model.model.foo.lora_A.weight": None, base: own + 1})
    with pytest.raises(SelfplayError, match=r"model\.norm\.weight differs from the base model's"):
        policy.load(folder)
    assert same(policy.model.state_dict()[base], own)
    changed(folder, **{base: own.clone()})
    policy.load(folder)


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"lora_alpha": 16}, "lora_alpha is 8 there and 16 here"),
        ({"lora_alpha": 8, "use_rslora": True}, "use_rslora is None there and True here"),
        ({"lora_alpha": 8, "r": 8}, "size mismatch"),
        ({"lora_alpha": 8, "target_modules": ["q_proj"]}, "unknown: "),
        ({"lora_alpha": 8, "modules_to_save": ["norm"]}, "missing: .*norm"),
        ({"lora_alpha": 8, "use_dora": True}, "use_dora is None there and True here"),
    ],
)
def test_an_adapter_of_other_options_is_refused(folder: Path, lora: dict[str, Any], told: str) -> None:
    with pytest.raises(SelfplayError, match=rf"does not fit the model \({told}"):
        made(lora={**LINEAR, **lora}).load(folder)
    with pytest.raises(SelfplayError, match=rf"the adapter '.*' does not fit player\.lora \({told}.*leave out"):
        made(path=str(folder), lora={**LINEAR, **lora})


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"init_lora_weights": "eva"}, "is 'eva', which needs more than the model's weights"),
        ({"init_lora_weights": "corda"}, "is 'corda', which needs more"),
        ({"init_lora_weights": "lora_ga"}, "is 'lora_ga', which needs more"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"init_lora_weights": "pissa", "target_parameters": ["gate"]}, "target_parameters cannot be combined with"),
        ({"init_lora_weights": "pissa", "target_modules": ["lm_head"]}, "the weights of .*lm_head, which are shared"),
        ({"init_lora_weights": "olora", "layer_replication": [[0, 4], [2, 4]]}, "which are shared"),
    ],
)
@pytest.mark.filterwarnings("ignore:`init_lora_weights` is")
def test_what_could_not_be_saved_is_refused_at_once(lora: dict[str, Any], told: str) -> None:
    with pytest.raises(SelfplayError, match=told):
        made(lora={**LINEAR, **lora})


@pytest.mark.parametrize(
    ("kind", "lora", "told"),
    [
        ("falcon_mamba", {}, r"peft cannot put this adapter into FalconMambaForCausalLM \(.*'out_proj'"),
        ("olmoe", {"use_dora": True}, r"peft cannot put this adapter into OlmoeForCausalLM \(.*use_dora=True"),
        ("laguna", {}, r"peft could not load this adapter in the form that it saves \(missing: .*shared_experts"),
    ],
)
def test_what_peft_cannot_make_or_keep_is_refused_at_once(
    kind: str, lora: dict[str, Any], told: str, tmp_path: Path
) -> None:
    import architectures

    architectures.saved(kind, tmp_path)
    with pytest.raises(SelfplayError, match=f"{told}.*change player.lora"):
        architectures.player_of(tmp_path, lora={"r": 4, "target_modules": "all-linear", **lora})


def test_a_residual_of_coarse_weights_is_refused() -> None:
    with pytest.raises(SelfplayError, match="which bfloat16 would round"):
        made(lora={**LINEAR, "init_lora_weights": "pissa"}, dtype="bfloat16")


def test_a_residual_of_another_seed_is_refused(tmp_path: Path) -> None:
    lora = {**LINEAR, "init_lora_weights": "pissa_niter_1"}
    made(lora=lora, seed=0).save(tmp_path)
    made(lora=lora, seed=0).load(tmp_path)
    with pytest.raises(SelfplayError, match=r"has different initial weights: player\.seed"):
        made(lora=lora, seed=1).load(tmp_path)


# --- an adapter as a player -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, {**LINEAR, "lora_alpha": 8}], ids=["as it is", "told"])
def test_an_adapter_goes_on_where_it_was(folder: Path, lora: dict[str, Any] | None) -> None:
    trained = made(lora={**LINEAR, "lora_alpha": 8})
    trained.load(folder)
    policy = made(path=str(folder), lora=lora)
    batch = batch_of(trained)
    assert same(logprobs(policy, batch), logprobs(trained, batch))
    reference = policy.snapshot()
    assert sum(p.numel() for p in policy.parameters()) == sum(p.numel() for p in trained.parameters()) > 0
    moved(policy, 3)
    assert same(logprobs(reference, batch), logprobs(trained, batch))
    policy.save(folder / "next")
    again = made(path=str(folder / "next"))
    assert same(logprobs(again, batch), logprobs(policy, batch))


def test_residuals_go_on_as_plain_adapters(tmp_path: Path) -> None:
    policy = made(lora={**LINEAR, "init_lora_weights": "pissa"})
    moved(policy, 1)
    policy.save(tmp_path)
    torch.testing.assert_close(logits(made(path=str(tmp_path))), logits(policy), atol=5e-5, rtol=1e-5)


def test_the_tokenizer_of_the_base_model_will_do(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).unlink()
    assert made(path=str(folder)).tokenizer.get_vocab() == made().tokenizer.get_vocab()


def config_of(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"base_model_name_or_path": "/nowhere/tiny"},
            r"the base model of the adapter '.*' cannot be loaded: .*nowhere",
        ),
        ({"base_model_name_or_path": None}, "does not name its base model"),
        ({"peft_type": "IA3"}, "only LoRA is supported"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_told(folder: Path, changes: dict[str, Any], told: str) -> None:
    config_of(folder, **changes)
    with pytest.raises(SelfplayError, match=told) as caught:
        made(path=str(folder))
    assert "\n" not in str(caught.value)


def test_an_adapter_over_an_adapter_is_told(folder: Path) -> None:
    config_of(folder, base_model_name_or_path=str(folder))
    with pytest.raises(SelfplayError, match="is itself an adapter"):
        made(path=str(folder))
