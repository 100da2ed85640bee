"""Attention of packed rows branch by branch: equal to that under a mask, and to one row a reply."""

from random import Random

import pytest
import torch
from conftest import perturb
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoConfig, LlamaConfig, PretrainedConfig, Qwen3Config

from selfplay.lm import branches
from selfplay.lm.branches import Tree, attend, can_branch
from selfplay.lm.logprobs import plain_logprobs, reply_logprobs
from selfplay.lm.packing import pack
from selfplay.players.language_model import LanguageModel

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def replies_to(lengths: list[int], most: int, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Up to five replies of one to nine tokens behind prompts of these lengths."""
    rng, prompts, said = Random(seed), [], []
    for length in lengths:
        prompt = torch.tensor([rng.randrange(90) for _ in range(length)])
        for _ in range(rng.randint(1, most)):
            prompts.append(prompt)
            said.append([rng.randrange(90) for _ in range(rng.randint(1, 9))])
    width = max(map(len, said))
    ids = torch.tensor([reply + [0] * (width - len(reply)) for reply in said])
    return prompts, ids, torch.arange(width)[None] < torch.tensor(list(map(len, said)))[:, None]


def test_the_places_by_hand() -> None:
    """Rows [p p p a a b], [p p p c c c], [q d d d - -]: two replies in the first, the second prompt is shorter."""
    prompts = [torch.tensor(p) for p in ([5, 6, 7], [5, 6, 7], [5, 6, 7], [8])]
    replies = torch.tensor([[1, 2, 0], [3, 0, 0], [9, 9, 9], [4, 4, 4]])
    mask = torch.arange(3) < torch.tensor([2, 1, 3, 3])[:, None]
    found = Tree.of(pack(prompts, replies, mask, 6))
    assert found.width == 3 and found.hidden is not None
    assert found.hidden[:, 0, 0].isinf().tolist() == [[False] * 3, [False] * 3, [False, True, True]]
    assert found.grid.tolist() == [[[3, 4, 0], [5, 0, 0]], [[9, 10, 11], [0, 0, 0]], [[13, 14, 15], [0, 0, 0]]]
    assert found.there.view(3, 2, 3).sum(2).tolist() == [[2, 1], [3, 0], [3, 0]]


@pytest.mark.parametrize("lengths", [[7, 7, 7], [12, 3, 1, 30]], ids=["alike", "ragged"])
def test_what_is_seen_and_its_gradient_are_those_under_the_mask(lengths: list[int]) -> None:
    packed = pack(*replies_to(lengths, 5))
    rows, length = packed.ids.shape
    torch.manual_seed(0)
    states = [torch.randn(rows, 4, length, 8, requires_grad=True) for _ in range(3)]
    mask = packed.attention(torch.float32)
    masked = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3).transpose(1, 2)
    ours = attend(*states, 0.3, Tree.of(packed))
    there = packed.segments >= 0
    torch.testing.assert_close(ours[there], masked[there], atol=2e-6, rtol=0)
    slopes = torch.randn(ours[there].shape)
    got, right = (torch.autograd.grad((x[there] * slopes).sum(), states) for x in (ours, masked))
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen3Config(**SIZES, head_dim=8)], ids=["llama", "qwen 3"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_are_the_plain_ones(
    config: PretrainedConfig, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    perturb(model, 0.1)
    assert can_branch(model)
    monkeypatch.setattr(branches, "worth_while", lambda packed: True)
    for seed in range(3):
        given = replies_to([12, 3, 1, 40, 12], 5, seed)
        found = []
        for how in (reply_logprobs, plain_logprobs):
            out = how(model, *given, temperature)
            slopes = torch.linspace(-1, 1, out.numel()).view_as(out)
            found.append((out.detach(), torch.autograd.grad((slopes * out).sum(), list(model.parameters()))))
        (ours, by_ours), (plain, by_plain) = found
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
        for a, b in zip(by_ours, by_plain, strict=True):
            assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_where_it_is_worth_while() -> None:
    """Sixteen answers of 48 to a prompt of 512: 512 x 512 + 768 x 560 of 1280 x 1280. Not where one reply is long."""

    def rows(prompt: int, lengths: list[int]) -> bool:
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        replies = torch.arange(1, 1 + mask.numel()).view(mask.shape)
        return branches.worth_while(pack([torch.arange(prompt)] * len(lengths), replies, mask, 10_000))

    assert rows(512, [48] * 16)
    assert not rows(64, [48] * 4), "short"
    assert not rows(64, [600] + [4] * 100), "uneven"


def test_who_takes_it(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where layers are run again after our attention is gone, not an architecture that would not pass it on."""
    assert can_branch(learner.model)
    monkeypatch.setattr(branches, "runs_again", lambda model: True)
    assert not can_branch(learner.model)
    monkeypatch.undo()
    for config in (
        GPTNeoConfig(vocab_size=90, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]]),
        Gemma2Config(**SIZES, head_dim=8),
    ):
        assert not can_branch(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    eager = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), attn_implementation="eager").eval()
    assert not can_branch(eager)
    assert learner.model.config._attn_implementation == "sdpa", "left as it was"


def test_rows_without_a_prompt_are_read_under_the_mask(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, replies, mask = replies_to([5, 5], 3)
    prompts[0] = prompts[0][:0]
    packed = pack(prompts, replies, mask)
    monkeypatch.setattr(branches, "LONG", 1)
    assert not branches.worth_while(packed)
    with torch.no_grad():
        assert bool(branches.states_of(learner.model, packed).isfinite().all())


def test_a_wrong_attention_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), dtype=torch.float32).eval()
    perturb(model, 0.3)
    monkeypatch.setattr(branches, "attend", lambda q, k, v, scale, tree: attend(q, k, v, 1.1 * scale, tree))
    assert not can_branch(model)
