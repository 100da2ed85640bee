"""Which way a model is computed: fast ways are taken on known parts alone, trials can fail, and errors are errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import FAMILIES, saved, tokenizer_of
from language_models import SIZES, adapted, batch_of, logprobs, made, moved, perturb
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BloomConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertDecoderConfig,
    MptConfig,
    OpenAIGPTConfig,
    PretrainedConfig,
)

from selfplay.core import SelfplayError
from selfplay.engines import masked
from selfplay.engines.llama import decoder, layers, trial
from selfplay.engines.llama.decoder import Decoder
from selfplay.engines.llama.layers import can_branch, can_pack, has_own_layers
from selfplay.engines.llama.trial import can_decode
from selfplay.engines.masked import obeys_masks
from selfplay.models.architecture import check_architecture
from selfplay.models.structure import body_of
from selfplay.models.trial import forget, moved_adapters
from selfplay.players.language_model import LanguageModel


def of(config: PretrainedConfig, kind: Any = None) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (AutoModelForCausalLM.from_config(config) if kind is None else kind(config)).eval()
    perturb(model, 0.05)
    return model


def apart(policy: LanguageModel) -> float:
    """The largest difference between the learner's and the sampler's log-probability of a token."""
    batch = batch_of(policy)
    return float((logprobs(policy, batch) - batch.logprobs)[batch.mask].abs().max())


# --- known parts alone ------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, tuple[dict[str, Any], bool, bool]] = {  # arguments; whether decoder and layers of ours take it
    "all matrices": ({"target_modules": "all-linear"}, True, True),
    "the head, too": ({"target_modules": ["q_proj", "lm_head"]}, True, True),
    "scaled by rank": ({"target_modules": ["q_proj"], "use_rslora": True}, True, True),
    "the embedding": ({"target_modules": ["embed_tokens"]}, False, True),
    "some tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 40, 41]}, False, True),
    "a copy of the embedding": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False, True),
    "a copy of the head": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False, True),
    "a copy of a norm": ({"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]}, False, False),
    "a copy of the last norm": ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, False, False),
    "a copy of a block": ({"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}, False, False),
    "magnitudes": ({"target_modules": ["q_proj", "down_proj"], "use_dora": True}, False, True),
    "biases": ({"target_modules": ["q_proj"], "lora_bias": True}, False, True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_sampler_is_the_learner_under_every_adapter(name: str) -> None:
    """Also after it has moved; before, it is the identity, which every path computes rightly."""
    lora, decodes, layered = ADAPTERS[name]
    policy = made(lora={"r": 4, **lora})
    assert apart(policy) < 1e-5
    moved(policy, 1)
    assert apart(policy) < 1e-5
    assert (can_decode(policy.model), has_own_layers(policy.model)) == (decodes, layered)


PLACES: dict[str, Callable[[Any], Any]] = {
    "a layer": lambda model: model.model.layers[1],
    "attention": lambda model: model.model.layers[0].self_attn,
    "a norm": lambda model: model.model.layers[1].input_layernorm,
    "the last norm": lambda model: model.model.norm,
    "the gate": lambda model: model.model.layers[0].mlp,
    "the body": lambda model: model.model,
    "a matrix": lambda model: model.model.layers[0].mlp.down_proj,
    "the embedding": lambda model: model.model.embed_tokens,
    "the head": lambda model: model.lm_head,
}
BY_CALL = ("a matrix", "the embedding", "the head")  # which the own layers call


@pytest.mark.parametrize("how", ["hook", "method"])
@pytest.mark.parametrize("place", PLACES)
def test_a_module_that_does_more_is_not_read_past(place: str, how: str) -> None:
    """A hook, or a forward method of its own, as offloaders and observers put there: it counts in every path."""
    policy = made()
    plain = logprobs(policy, batch_of(policy))
    module = PLACES[place](policy.model)
    assert can_decode(policy.model) and has_own_layers(policy.model)

    def more(out: Any) -> Any:
        if isinstance(out, Tensor):
            return 1.5 * out
        if isinstance(out, tuple):
            return (1.5 * out[0], *out[1:])
        out.last_hidden_state = 1.5 * out.last_hidden_state
        return out

    if how == "hook":
        module.register_forward_hook(lambda module, given, out: more(out))
    else:
        was = module.forward
        module.forward = lambda *args, **kwargs: more(was(*args, **kwargs))
    batch = batch_of(policy)
    assert not can_decode(policy.model) and has_own_layers(policy.model) is (place in BY_CALL)
    assert apart(policy) < 1e-5
    assert float((logprobs(policy, batch) - plain.new_zeros(())).abs().sum()) > 0
    texts = [torch.cat([p, r[m]]) for p, r, m in zip(batch.prompts, batch.replies, batch.mask, strict=True)]
    with torch.no_grad():
        for row, text in enumerate(texts):
            n = int(batch.mask[row].sum())
            logp = torch.log_softmax(policy.model(input_ids=text[None]).logits[0, -n - 1 : -1], -1)
            right = logp.gather(-1, text[-n:, None])[:, 0]
            torch.testing.assert_close(batch.logprobs[row, :n], right, atol=1e-5, rtol=0)


def test_hooks_for_recomputing_are_harmless() -> None:
    policy = made(lora={"r": 4, "target_modules": "all-linear"}, gradient_checkpointing=True)
    assert any(module._forward_hooks for module in policy.model.modules()) and can_decode(policy.model)


class Capped(LlamaForCausalLM):  # type: ignore[misc]
    """Like Gemma 2: logits are at most 30."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = 30 * torch.tanh(out.logits / 30)
        return out


def test_a_cap_that_an_untrained_head_hides() -> None:
    model = of(LlamaConfig(**SIZES), Capped)
    with torch.no_grad():
        model.lm_head.weight *= 0.01
        logits = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert float(logits.abs().max()) < 0.1, "tanh is the identity there"
    with pytest.raises(SelfplayError, match="Capped of 'x' scales or caps its logits"):
        check_architecture(model, "x")
    assert not can_decode(model)


def test_the_trial_sees_a_cap_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of(LlamaConfig(**SIZES), Capped)
    with torch.no_grad():
        model.lm_head.weight *= 0.01
    monkeypatch.setattr(trial, "has_parts", lambda model: True)
    kept = model.model.norm.weight.detach().clone()
    assert not can_decode(model)
    assert torch.equal(model.model.norm.weight, kept)


# --- trials -----------------------------------------------------------------------------------------------------------


def test_a_trial_sees_what_is_wrong_with_an_adapter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is the identity still."""
    policy = adapted()
    forget(policy.model)  # made when the player was
    monkeypatch.setattr(decoder, "_merged", lambda module: decoder.base_of(module).weight)
    assert not can_decode(policy.model)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_trial_moves_comes_back(fails: bool) -> None:
    policy = adapted()
    before, luck = [(p, p.data, p.detach().clone()) for p in policy.parameters()], torch.get_rng_state()
    try:
        with moved_adapters(policy.model):
            assert not any(torch.equal(p, was) for p, _, was in before)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert all(p.data.data_ptr() == data.data_ptr() and torch.equal(p, was) for p, data, was in before)
    assert torch.equal(torch.get_rng_state(), luck)


TRIALS = {
    "decoder": (can_decode, Decoder, "embed"),
    "own layers": (has_own_layers, layers, "_masked"),
    "branches": (can_branch, layers, "_branched"),
    "packed": (obeys_masks, masked, "under_mask"),
}


@pytest.mark.parametrize("error", [RuntimeError("tensors on two devices"), torch.OutOfMemoryError("out of memory")])
@pytest.mark.parametrize("name", TRIALS)
def test_an_error_in_a_trial_is_an_error(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is remembered of it."""
    can, holder, part = TRIALS[name]
    model = of(LlamaConfig(**SIZES))

    def broken(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(holder, part, broken)
        with pytest.raises(type(error)):
            can(model)
    assert can(model)


def test_trials_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of(LlamaConfig(**SIZES))
    assert can_decode(model) and has_own_layers(model)
    monkeypatch.setattr(Decoder, "embed", lambda self, ids: 2 * torch.nn.functional.embedding(ids, self.embedding))
    assert can_decode(model)
    assert forget(model) == {"decoder": True, "own layers": True}
    assert not can_decode(model)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=90, hidden_size=32, n_layer=2, n_head=4),
        MptConfig(vocab_size=90, d_model=32, n_heads=4, n_layers=2, expansion_ratio=2),
        OpenAIGPTConfig(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    ],
    ids=lambda config: config.model_type,
)
def test_who_makes_masks_of_its_own_is_given_none(config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by its parts: no error has to be caught."""
    monkeypatch.setattr(masked, "under_mask", lambda *given: pytest.fail("was tried"))
    assert not can_pack(of(config))


# --- which module is the decoder, and whether there is one ------------------------------------------------------------

LLAMA4 = Llama4TextConfig(
    **SIZES, intermediate_size_mlp=48, head_dim=8, num_local_experts=2, attention_chunk_size=64, pad_token_id=0
)
MODERN = ModernBertDecoderConfig(
    **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, local_attention=64, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "body"),
    [(LLAMA4, "Llama4TextModel"), (MODERN, "ModernBertDecoderModel"), (GPT2Config(n_layer=1, n_embd=48), "GPT2Model")],
    ids=lambda x: getattr(x, "model_type", None),
)
def test_the_text_decoder_is_found(config: PretrainedConfig, body: str) -> None:
    model = of(config)
    assert type(body_of(model)).__name__ == body
    if config is not MODERN:  # which has one layer more between its decoder and its head
        check_architecture(model, "x")


def stored(folder: Path, model: Any) -> str:
    model.save_pretrained(folder)
    tokenizer_of(FAMILIES["qwen2"]).save_pretrained(folder)
    return str(folder)


def test_llama_4_plays(tmp_path: Path) -> None:
    config = Llama4TextConfig(**LLAMA4.to_dict() | {"vocab_size": len(tokenizer_of(FAMILIES["qwen2"]))})
    policy = made(path=stored(tmp_path, of(config)))
    assert apart(policy) < 1e-4


BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32}


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            lambda: BartForConditionalGeneration(BartConfig(vocab_size=500, **BART)),
            "is an encoder-decoder",
        ),
        (
            lambda: of(BertConfig(vocab_size=500, **{k: v for k, v in SIZES.items() if k != "vocab_size"})),
            "architecture BertLMHeadModel of '.*' does not compute its logits from",
        ),
    ],
    ids=["bart", "bert"],
)
def test_who_cannot_write_is_refused(model: Callable[[], Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(SelfplayError, match=f"{told}.*choose a decoder-only chat model"):
        made(path=stored(tmp_path, model()))


def test_who_sees_what_comes_is_refused(tmp_path: Path) -> None:
    """Bidirectional attention, which the head does not betray."""
    saved("qwen2", tmp_path)
    policy = made(path=str(tmp_path))
    for layer in policy.model.model.layers:
        plain = layer.self_attn.forward

        def seeing(hidden_states: Tensor, *args: Any, _plain: Any = plain, **kwargs: Any) -> Any:
            out, weights = _plain(hidden_states, *args, **kwargs)
            return out + hidden_states.mean(1, keepdim=True), weights

        layer.self_attn.forward = seeing
    with pytest.raises(SelfplayError, match="lets a token attend to later ones"):
        check_architecture(policy.model, "x")


def test_who_cannot_read_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of(LlamaConfig(**SIZES))

    def broken(**inputs: object) -> None:
        raise ValueError("give pixel_values.\nOr do not.")

    model.forward = broken
    with pytest.raises(SelfplayError, match=r"ForCausalLM of 'x' cannot process a text of 8 tokens \(give pixel_v"):
        check_architecture(model, "x")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(SelfplayError, match="has no output layer"):
        check_architecture(model, "x")


def test_who_gives_no_gradient_in_eval_mode_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reformer computes its gradient from hashes that only the train mode draws. The embedding is left as it was."""
    import architectures

    with pytest.raises(SelfplayError, match=r"ReformerModelWithLMHead of 'x' gives no gradient in eval mode \(If"):
        check_architecture(architectures.model_of("reformer"), "x")
    model = of(LlamaConfig(**SIZES))
    check_architecture(model, "x")
    assert not model.get_input_embeddings()._forward_hooks and all(p.grad is None for p in model.parameters())
    whole = model.forward
    monkeypatch.setattr(model, "forward", torch.no_grad()(whole))
    with pytest.raises(SelfplayError, match=r"gives no gradient in eval mode \(element 0 of tensors does not require"):
        check_architecture(model, "x")
