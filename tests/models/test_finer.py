"""A model in half precision that is run in float32 for a moment, and checks that rounding must not fail."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from selfplay.core import SelfplayError
from selfplay.engines.scores import Scorer
from selfplay.engines.transformers import decode
from selfplay.models.architecture import READ, SEEN, check_architecture
from selfplay.models.finer import finer

LLAMA = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=96, n_embd=64, n_layer=6, n_head=4, n_positions=64)
IDS = torch.arange(1, READ + 1)[None]


def half(kind: Any, config: Any, scale: float = 1.0) -> Any:
    """A model of random weights in bfloat16; `scale` multiplies its matrices."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p *= scale
    return model.to(torch.bfloat16)


@pytest.mark.parametrize(("kind", "config"), [(LlamaForCausalLM, LLAMA), (GPT2LMHeadModel, GPT2)])
def test_it_computes_in_float32_a_layer_at_a_time(kind: Any, config: Any) -> None:
    model = half(kind, config)
    before = copy.deepcopy(model.state_dict())
    exact = copy.deepcopy(model).float()(IDS).logits
    converted: list[int] = []
    for module in model.modules():
        module.register_forward_hook(
            lambda *_: converted.append(sum(p.numel() for p in model.parameters() if p.dtype == torch.float32))
        )
    with finer(model, torch.float32):
        found = model(IDS).logits
    torch.testing.assert_close(found, exact)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    layers = model.model.layers if kind is LlamaForCausalLM else model.transformer.h
    assert 0 < max(converted) <= max(sum(p.numel() for p in layers[0].parameters()), 96 * 64 + 64)


def changed(model: Any, by: Callable[[Tensor], float], rounds: bool) -> Any:
    """The first layer adds what `by` gives for its input, which is wrong; if it `rounds`, only in half precision."""
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + (0.0 if rounds and x.dtype == torch.float32 else by(x))
    return model


def by_length(x: Tensor) -> float:
    return 9.0 * (x.shape[1] > SEEN) * float(x[0, 0, 0])


def by_rows(x: Tensor) -> float:
    return 9.0 * (len(x) - 1)


def test_rounding_is_not_taken_for_attention_to_later_tokens() -> None:
    check_architecture(changed(half(LlamaForCausalLM, LLAMA), by_length, rounds=True), "rounding")
    with pytest.raises(SelfplayError, match="lets a token attend to later ones"):
        check_architecture(changed(half(LlamaForCausalLM, LLAMA), by_length, rounds=False), "seeing")


def test_rounding_is_not_taken_for_an_effect_of_other_rows() -> None:
    assert decode.way_of(changed(half(LlamaForCausalLM, LLAMA), by_rows, rounds=True)).cached
    with pytest.raises(SelfplayError, match="computes different logits for a text in a batch than alone"):
        decode.way_of(changed(half(LlamaForCausalLM, LLAMA), by_rows, rounds=False))


@pytest.mark.parametrize("rounds", [True, False])
def test_a_reward_model_s_rounding_is_not_taken_for_an_effect_of_other_texts(rounds: bool) -> None:
    config = LlamaConfig(**{**LLAMA.to_dict(), "id2label": {0: "reward"}, "label2id": {"reward": 0}})
    judge = changed(half(LlamaForSequenceClassification, config, 8.0), by_rows, rounds)
    texts = [(5, 6, 7), (8, 9, 10), (11, 12)], [tuple(range(5, 25)), tuple(range(30, 52))]
    if rounds:
        assert Scorer(judge, 4, 0, *texts).precision == torch.float32
    else:
        with pytest.raises(SelfplayError, match="scores a text differently in a batch than alone"):
            Scorer(judge, 4, 0, *texts)
