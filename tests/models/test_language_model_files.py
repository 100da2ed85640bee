"""The language model on disk: what is saved is loaded, and what cannot be is told in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from configs import config
from language_models import adapted, batch_of, logprobs, made, moved, same
from transformers import AutoTokenizer, PreTrainedModel

from selfplay.building import make
from selfplay.core import SelfplayError, user
from selfplay.models.architecture import check_architecture
from selfplay.players.language_model import LanguageModel

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
    check_architecture(learner.model, "tiny")
    plain = type(learner.model).forward

    def scaled(self: PreTrainedModel, **inputs: object) -> object:
        out = plain(self, **inputs)
        out.logits = 2.0 * out.logits
        return out

    monkeypatch.setattr(type(learner.model), "forward", scaled)
    with pytest.raises(SelfplayError, match="scales or caps its logits"):
        made()


@pytest.mark.parametrize("name", ["tiny", "tiny_lora"])
def test_the_yamls_make_players(name: str) -> None:
    policy = make(config(f"player={name}", "seed=3").player, "player")
    assert policy.lora == (name == "tiny_lora")
    assert len(policy.parameters()) > 0
