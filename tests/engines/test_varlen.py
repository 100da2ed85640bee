"""Flash attention over packed rows, with a plain kernel of the same signature in place of CUDA's."""

import copy
from inspect import signature
from math import inf
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from language_models import SIZES, made, moved
from packed_replies import a_tree_a_row, replies_to
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from selfplay.engines.embedded import EmbeddedEngine
from selfplay.engines.llama import layers, varlen
from selfplay.engines.llama.layers import can_flash, states_at
from selfplay.engines.llama.varlen import Sequences, attend, prefer
from selfplay.engines.logprobs import plain_logprobs, reply_logprobs
from selfplay.engines.masked import under_mask
from selfplay.engines.packing import pack
from selfplay.engines.ways import ways_of
from selfplay.models.trial import forget

calls: list[int] = []


def plain(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """`varlen_attn` as its documentation has it, in float32 inside; causal masks are aligned with the last key."""
    assert window_size == (-1, 0) and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.shape[1] == key.shape[1] or enable_gqa
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    assert cu_seq_q[0] == cu_seq_k[0] == 0 and (cu_seq_q[-1], cu_seq_k[-1]) == (len(query), len(key))
    calls.append(len(query))
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    parts = []
    for a, b, c, d in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", query[a:b].float(), key[c:d].float()) * scale
        early = torch.ones(scores.shape[1:], dtype=torch.bool).tril(int((d - c) - (b - a)))
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~early, -inf).softmax(-1), value[c:d].float()))
    return torch.cat(parts).to(query.dtype)


def top_left(*given: Any, **options: Any) -> Tensor:
    """A kernel whose causal mask is aligned with the first key, as PyTorch's SDPA has it."""
    query, key, value, queries, keys, *_ = given
    parts = []
    for a, b, c, d in zip(queries, queries[1:], keys, keys[1:], strict=False):
        n = b - a
        few = torch.tensor([0, n], dtype=torch.int32)
        parts.append(plain(query[a:b], key[c : c + n], value[c : c + n], few, few, int(n), int(n), **options))
        assert d - c >= n
    return torch.cat(parts)


class Detached(torch.autograd.Function):
    """Right values and a wrong gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return 1.2 * slopes[0]


def wrong_gradient(query: Tensor, key: Tensor, value: Tensor, *given: Any, **options: Any) -> Tensor:
    return plain(query, Detached.apply(key), value, *given, **options)  # type: ignore[no-untyped-call]


def use(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "kernel_on", lambda device: kernel)


def of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
    model = model.to(dtype)
    prefer(model, "flash")
    return model


def test_the_sequences_by_hand() -> None:
    """Rows [p p a a b | q c -] and [- - ...] of two trees: prompts of 2 and 1 tokens with replies of 2, 1 and 1."""
    prompts = [torch.tensor(p) for p in ([5, 6], [5, 6], [8])]
    mask = torch.arange(2) < torch.tensor([2, 1, 1])[:, None]
    packed = a_tree_a_row(prompts, torch.tensor([[1, 2], [3, 0], [4, 0]]), mask)
    assert packed.ids.tolist() == [[8, 4, 0, 0, 0], [5, 6, 3, 1, 2]] or packed.ids.shape == (2, 5)
    found = Sequences.of(packed, plain)
    tree = int((packed.segments >= 0).sum(1).argmax())
    assert tree == 0 and packed.ids[0].tolist() == [5, 6, 1, 2, 3]
    assert found.tokens.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.keys.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 4, 5, 5, 6]
    assert found.query_ends.tolist() == [0, 2, 4, 5, 6, 7] and found.key_ends.tolist() == [0, 2, 6, 9, 10, 12]
    assert (found.longest_query, found.longest_key) == (2, 4)


@pytest.mark.parametrize("layout", [a_tree_a_row, pack], ids=["a tree a row", "several trees a row"])
@pytest.mark.parametrize("kv_heads", [4, 2], ids=["all heads", "grouped"])
def test_what_is_seen_and_its_gradient_are_those_under_the_mask(layout: Any, kv_heads: int) -> None:
    """Also behind an empty prompt; padding sees nothing and has no gradient."""
    packed = layout(*replies_to([7, 12, 3, 0, 30, 7], 5))
    rows, length = packed.ids.shape
    assert bool((packed.segments < 0).any()) and (layout is not pack or bool((packed.roots > 0).any()))
    torch.manual_seed(0)
    states = [torch.randn(rows, length, n, 8, requires_grad=True) for n in (4, kv_heads, kv_heads)]
    query, *others = (x.transpose(1, 2) for x in states)
    key, value = (x.repeat_interleave(4 // kv_heads, 1) for x in others)
    mask = packed.attention(torch.float32)
    masked = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    there = packed.segments >= 0
    ours, theirs = attend(*states, 0.3, Sequences.of(packed, plain)), masked.transpose(1, 2)
    torch.testing.assert_close(ours[there], theirs[there], atol=2e-6, rtol=0)
    assert not ours[~there].any()
    slopes = torch.randn(ours[there].shape)
    got, right = (torch.autograd.grad((x[there] * slopes).sum(), states) for x in (ours, theirs))
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)
        assert not a[~there].any()


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen3Config(**SIZES, head_dim=16)], ids=["llama", "qwen 3"])
def test_log_probabilities_and_gradients_in_bfloat16(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what float32 finds they are no further than under the mask."""
    use(plain, monkeypatch)
    model = of(config)
    packed = pack(*replies_to([12, 30, 12], 5))
    places = packed.rows[packed.mask], packed.columns[packed.mask]

    def found(path: Any, half: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = path(model, packed, *places)
        slopes = torch.linspace(-1, 1, states.numel()).view_as(states)
        used = [p for n, p in model.named_parameters() if "lm_head" not in n]
        return [states.detach(), *torch.autograd.grad((slopes * states).sum(), used)]

    assert can_flash(model)
    calls.clear()
    ours = found(states_at, True)
    assert len(calls) == len(layers.body_of(model).layers)
    right, theirs = found(states_at, False), found(layers._masked, True)
    assert len(calls) == len(layers.body_of(model).layers), "in float32 the mask is used"
    apart = [
        torch.tensor([float((a - b).norm() / b.norm()) for a, b in zip(some, right, strict=True)])
        for some in (ours, theirs)
    ]
    assert 1e-4 < float(apart[0].mean()) < 1.25 * float(apart[1].mean())
    assert float((found(under_mask, True)[0] - ours[0]).norm()) < 0.03 * float(ours[0].norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [plain, top_left, wrong_gradient, None])
def test_only_a_right_kernel_is_taken(kernel: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    use(kernel, monkeypatch)
    model = of(LlamaConfig(**SIZES), dtype)
    assert can_flash(model) is (kernel is plain) and can_flash(copy.deepcopy(model)) is (kernel is plain)
    prefer(model, "mask")
    assert not can_flash(model), "nobody asked for it"


def test_wrong_layers_around_a_right_kernel_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    use(plain, monkeypatch)
    monkeypatch.setattr(varlen, "attend", lambda *given: attend(*given[:3], 1.3 * given[3], given[4]))
    assert layers.gradients_agree(of(LlamaConfig(**SIZES))) and not can_flash(of(LlamaConfig(**SIZES)))


def test_other_architectures_keep_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    use(plain, monkeypatch)
    model = of(GPT2Config(vocab_size=300, n_embd=48, n_layer=1, n_head=4))
    assert not can_flash(model) and ways_of(model, EmbeddedEngine(), False, False)["packed attention"] == "mask"


def test_trials_are_repeated_after_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    use(plain, monkeypatch)
    policy = made(packed_attention="flash", compute_dtype="bfloat16", lora={"r": 2, "target_modules": "all-linear"})
    assert policy.ways()["packed attention"] == "flash"
    moved(policy, 1)
    use(top_left, monkeypatch)
    assert policy.ways()["packed attention"] == "flash" and policy.ways(again=True)["packed attention"] == "mask"
    use(plain, monkeypatch)
    forget(policy.model)
    given = replies_to([9, 20], 4)
    with torch.no_grad():
        exact = plain_logprobs(policy.model, *given, 1.0)
        with policy.forward_passes():
            calls.clear()
            ours, theirs = (path(policy.model, *given, 1.0) for path in (reply_logprobs, plain_logprobs))
    assert calls and float((ours - exact).norm()) < 1.5 * float((theirs - exact).norm())
    assert "packed attention" not in made().ways()


def test_a_run_learns_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler's log-probabilities agree with the learner's, as every step checks."""
    use(plain, monkeypatch)
    args = (*cli.SMALL, "player.packed_attention=flash", "player.compute_dtype=bfloat16", f"hydra.run.dir={tmp_path}")
    ended = cli.run(*args)
    assert ended.code == 0 and "packed attention: flash" in ended.out, ended.err
    assert cli.lines(tmp_path / "metrics.jsonl")[-1]["logprob_mismatch"] < 0.1


def test_the_signature_is_that_of_pytorch() -> None:
    """On a CPU there is no kernel; the stand-in takes what PyTorch's takes."""
    from torch.nn.attention.varlen import varlen_attn

    theirs = list(signature(varlen_attn).parameters)
    assert list(signature(plain).parameters)[:7] == theirs[:7]
    assert set(signature(plain).parameters) <= set(theirs) and set(theirs) >= varlen.OPTIONS
    assert varlen.kernel_on(torch.device("cpu")) is None
