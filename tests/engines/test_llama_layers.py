"""The layers of the Llama family are transformers' own: states, gradients, and who is not of the family."""

import copy
from math import inf
from typing import Any

import pytest
import torch
from language_models import SIZES, perturb
from packed_replies import a_tree_a_row, replies_to
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoConfig,
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from selfplay.engines.llama import layers
from selfplay.engines.llama.layers import (
    _EagerAttention,
    _norm,
    _Rotary,
    _SwiGLU,
    can_branch,
    choose_layout,
    has_own_layers,
    states_at,
)
from selfplay.engines.logprobs import plain_logprobs, reply_logprobs
from selfplay.engines.masked import under_mask
from selfplay.engines.packing import pack
from selfplay.players.language_model import LanguageModel

FAMILY = [
    LlamaConfig(**SIZES),
    LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, tie_word_embeddings=True, attention_bias=True),
    MistralConfig(**SIZES, sliding_window=None),
    Qwen2Config(**SIZES),
    Qwen3Config(**SIZES, head_dim=16),
]
NAMES = ["llama", "llama tied, biased", "mistral", "qwen 2", "qwen 3"]
HOW = ["kernel", "written", "branches"]


def of(config: PretrainedConfig, amount: float = 0.1) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    perturb(model, amount)
    return model


def attention_by(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention be by PyTorch's kernel, written out, or branch by branch."""
    monkeypatch.setattr(layers, "_is_small", lambda query: how == "written")
    monkeypatch.setattr(layers, "branched_cost", lambda plan: -inf if how == "branches" else inf)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("config", FAMILY, ids=NAMES)
def test_log_probabilities_and_gradients_are_the_plain_ones(
    config: PretrainedConfig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of(config)
    assert has_own_layers(model) and can_branch(model)
    attention_by(how, monkeypatch)
    for seed in range(3):
        given = replies_to([12, 3, 1, 40, 12], 5, seed)
        found = []
        for path in (reply_logprobs, plain_logprobs):
            out = path(model, *given, 0.7)
            slopes = torch.linspace(-1, 1, out.numel()).view_as(out)
            found.append((out.detach(), torch.autograd.grad((slopes * out).sum(), list(model.parameters()))))
        (ours, by_ours), (plain, by_plain) = found
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
        for a, b in zip(by_ours, by_plain, strict=True):
            assert float((a - b).norm()) <= 2e-5 * float(b.norm())


@pytest.mark.parametrize("how", HOW[:2])
def test_adapters_learn_as_under_the_modules(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = get_peft_model(of(LlamaConfig(**SIZES)), lora).eval()
    assert has_own_layers(model)
    attention_by(how, monkeypatch)
    given = replies_to([12, 3, 12], 5)
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert len(learnt) == 2 * 7 * 2
    found = [
        torch.autograd.grad(path(model, *given, 1.0).square().sum(), learnt)
        for path in (reply_logprobs, plain_logprobs)
    ]
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) <= 2e-5 * float(b.norm())


@pytest.mark.parametrize("how", HOW)
def test_in_half_precision_it_is_no_further_from_the_truth(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16: from what float32 finds, states and gradients are as far as transformers' modules are."""
    model = of(LlamaConfig(**SIZES))
    assert has_own_layers(model) and can_branch(model)
    attention_by(how, monkeypatch)
    packed = (a_tree_a_row if how == "branches" else pack)(*replies_to([12, 30, 12], 5))
    places = packed.rows[packed.mask], packed.columns[packed.mask]

    def found(path: Any, half: bool) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = path(model, packed, *places)
        assert states.dtype == torch.float32
        slopes = torch.linspace(-1, 1, states.numel()).view_as(states)
        used = [p for n, p in model.named_parameters() if "lm_head" not in n]
        return [states.detach(), *torch.autograd.grad((slopes * states).sum(), used)]

    right, theirs, ours = found(under_mask, False), found(under_mask, True), found(states_at, True)

    def apart(some: list[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([float((a - b).norm() / b.norm()) for a, b in zip(some, right, strict=True)])

    assert 1e-4 < float(apart(ours).mean()) < 1.25 * float(apart(theirs).mean())


def test_the_parts_have_the_gradient_that_differences_give() -> None:
    torch.manual_seed(0)
    x, gate, up = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(_SwiGLU.apply, (gate, up))
    norm: Any = torch.nn.Module()
    norm.weight = torch.nn.Parameter(torch.randn(4))
    norm.variance_epsilon = 1e-2
    wide = torch.nn.functional.rms_norm(x.float(), (4,), norm.weight, 1e-2)
    right = torch.autograd.grad(wide.square().sum(), (x, norm.weight))
    ours = torch.autograd.grad(_norm(norm, x, torch.float32).square().sum(), (x, norm.weight))
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_turn_is_undone_by_its_gradient() -> None:
    """A rotation's transpose is its inverse."""
    angles = torch.rand(2, 5, 1, 3)
    x = torch.randn(2, 5, 4, 6, requires_grad=True)
    turned = _Rotary.apply(x, angles.cos(), angles.sin())  # type: ignore[no-untyped-call]
    (back,) = torch.autograd.grad(turned, x, turned.detach())
    torch.testing.assert_close(back, x.detach())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_attention_written_out_is_the_kernels() -> None:
    torch.manual_seed(0)
    packed = pack(*replies_to([4, 9, 2], 4))
    rows, length = packed.ids.shape
    mask = packed.attention(torch.float32)
    query = torch.randn(rows, length, 6, 8, requires_grad=True)
    key, value = (torch.randn(rows, length, 2, 8, requires_grad=True) for _ in range(2))
    ours = _EagerAttention.apply(query, key, value, mask, 0.4)  # type: ignore[no-untyped-call]
    wide = [x.repeat_interleave(3, 2).transpose(1, 2) for x in (key, value)]
    right = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), *wide, attn_mask=mask, scale=0.4
    ).transpose(1, 2)
    torch.testing.assert_close(ours, right, atol=2e-6, rtol=0)
    slopes = torch.randn(right.shape)
    given = (query, key, value)
    for a, b in zip(*(torch.autograd.grad((x * slopes).sum(), given) for x in (ours, right)), strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


def test_written_out_in_bfloat16_the_scores_are_exact() -> None:
    """With a scale that is no power of two: a query that were rounded again would move scores of 20 by 0.05."""
    torch.manual_seed(0)
    packed = pack(*replies_to([9], 4))
    rows, length = packed.ids.shape
    mask = packed.attention(torch.float32)
    query = (3 * torch.randn(rows, length, 4, 8)).bfloat16()
    key, value = (torch.randn(rows, length, 4, 8).bfloat16() for _ in range(2))
    ours = _EagerAttention.apply(query, key, value, mask, 0.9)  # type: ignore[no-untyped-call]
    scores = torch.einsum("rqhd,rkhd->rhqk", query.double(), key.double()) * 0.9
    weights = (scores + mask).softmax(-1).bfloat16()
    right = torch.einsum("rhqk,rkhd->rqhd", weights.double(), value.double())
    assert float((ours - right).abs().max()) < 0.01 and float(scores.abs().max()) > 20


@pytest.mark.parametrize(
    "config",
    [
        GPTNeoConfig(vocab_size=90, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]),
        Gemma2Config(**SIZES, head_dim=8),
        GraniteConfig(**SIZES, residual_multiplier=0.5),  # the parts have the same names, the sums are others
        LlamaConfig(**SIZES, hidden_act="gelu"),
        Ministral3Config(**SIZES, head_dim=8, sliding_window=None),  # queries grow beyond 16,384 tokens
    ],
    ids=["gpt neo", "gemma 2", "granite", "gelu", "ministral 3"],
)
def test_who_is_not_of_the_family(config: PretrainedConfig) -> None:
    model = of(config)
    assert not has_own_layers(model)
    packed = pack(*replies_to([5, 5], 3))
    with torch.no_grad():
        assert states_at(model, packed, packed.rows[:, 0], packed.columns[:, 0]).shape[0] == len(packed.rows)


def test_another_kernel_and_layers_that_run_again_are_left_to_the_modules(
    learner: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), attn_implementation="eager").eval()
    assert not has_own_layers(eager)
    assert has_own_layers(learner.model)
    packed = pack(*replies_to([5, 5], 3))
    asked = []
    monkeypatch.setattr(layers, "under_mask", lambda *given: asked.append(given))
    monkeypatch.setattr(layers, "runs_again", lambda model: True)
    states_at(learner.model, packed, packed.rows[:, 0], packed.columns[:, 0])
    assert len(asked) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("broken", ["_rotated", "attend", "_norm", "_by_token"])
def test_wrong_layers_are_not_taken(broken: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, too, although there 2 % are within the rounding error."""
    model = of(LlamaConfig(**SIZES), 0.3).to(dtype)
    assert has_own_layers(copy.deepcopy(model)) and can_branch(copy.deepcopy(model))
    was = getattr(layers, broken)
    wrong: dict[str, Any] = {
        "_rotated": lambda x, cos, sin: was(x, cos, -sin),
        "attend": lambda query, key, value, scale, tree: was(query, key, value, 1.1 * scale, tree),
        "_norm": lambda module, x, dtype: 1.02 * was(module, x, dtype),
        "_by_token": lambda x, rows, length: 1.1 * was(x, rows, length),  # of `_EagerAttention` alone
    }
    monkeypatch.setattr(layers, broken, wrong[broken])
    assert can_branch(copy.deepcopy(model)) is (broken == "_by_token"), "which no branch needs"
    assert has_own_layers(model) is (broken == "attend"), "which the mask does not need"


def laid(model: Any, spec: list[tuple[int, list[int]]], seed: int = 0) -> tuple[Any, Any]:
    """What `lay` makes of prompts of so many tokens with replies of so many each, and what it was given."""
    rng = torch.Generator().manual_seed(seed)
    prompts, said = [], []
    for length, lengths in spec:
        prompt = torch.randint(0, 90, (length,), generator=rng)
        for n in lengths:
            prompts.append(prompt)
            said.append(torch.randint(0, 90, (n,), generator=rng))
    replies = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
    given = prompts, replies, torch.arange(replies.shape[1]) < torch.tensor(list(map(len, said)))[:, None]
    return choose_layout(model, *given), given


def test_a_long_prompt_is_there_once_with_all_its_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen replies of 30 behind 300 tokens are one row of 780; under a mask, two."""
    model = of(LlamaConfig(**{**SIZES, "max_position_embeddings": 1024}))
    one = [(300, [30] * 16)]
    packed, given = laid(model, one)
    assert packed.ids.shape == (1, 780)
    with torch.no_grad():
        torch.testing.assert_close(
            reply_logprobs(model, *given, 1.0), plain_logprobs(model, *given, 1.0), atol=1e-5, rtol=0
        )
    monkeypatch.setattr(layers, "can_branch", lambda model: False)
    assert laid(model, one)[0].ids.shape == (2, 660)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ([(512, [48] * 16), (512, [48] * 16), (512, [48] * 15)], (3, 1280)),
        ([(512, [48] * 16), (496, [48] * 16)], (2, 1280)),
        ([(300, [40] * 15), (312, [36] * 16), (280, [48] * 11)], (3, 900)),
    ],
    ids=["a reply less", "a shorter prompt", "nothing alike"],
)
def test_several_long_prompts_go_branch_by_branch(
    spec: list[tuple[int, list[int]]], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each prompt with all its replies, whatever is padded."""
    model = of(LlamaConfig(**{**SIZES, "max_position_embeddings": 2048}))
    assert can_branch(model)
    packed, given = laid(model, spec)
    assert packed.ids.shape == shape
    calls = []
    was = layers.attend
    monkeypatch.setattr(layers, "attend", lambda *given: calls.append(1) or was(*given))
    with torch.no_grad():
        ours = reply_logprobs(model, *given, 1.0)
    assert len(calls) == 2, "layers"
    with torch.no_grad():
        torch.testing.assert_close(ours, plain_logprobs(model, *given, 1.0), atol=1e-5, rtol=0)


def test_where_branches_cost_more_rows_are_shared() -> None:
    """One long tree does not keep the short ones from sharing rows, nor one long reply many short ones."""
    model = of(LlamaConfig(**{**SIZES, "max_position_embeddings": 2048}))
    packed, _ = laid(model, [(700, [40] * 8)] + [(20, [30] * 8)] * 20)
    assert packed.ids.shape[0] < 16 and int((packed.roots > 0).sum()) > 0
    assert laid(model, [(300, [30] + [2] * 15)])[0].ids.shape == (1, 360), "short enough"
    assert not laid(model, [(64, [300] + [4] * 100)])[0].branched, "uneven"
