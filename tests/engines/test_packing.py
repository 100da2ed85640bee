"""Replies that share the reading of their prompt are what they are alone: layout by hand, values and gradients."""

import copy
from dataclasses import replace
from random import Random

import pytest
import torch
from language_models import perturb
from packed_replies import SIZES
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
    Qwen3Config,
)

from selfplay import devices
from selfplay.engines.llama.layers import can_pack, has_own_layers
from selfplay.engines.logprobs import plain_logprobs, reply_logprobs
from selfplay.engines.packing import Packed, _fill, pack
from selfplay.players.language_model import LanguageModel

PROMPTS = ([5, 6, 7], [5, 6, 7], [5, 6, 7], [8], [5, 6, 7])
REPLIES = ([1, 2], [3], [1, 2], [4, 4, 4], [9, 9, 9])


def ragged(prompts: object, replies: object) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    lists = [list(map(int, r)) for r in replies]  # type: ignore[attr-defined]
    width = max(map(len, lists))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in lists])
    mask = torch.arange(width)[None] < torch.tensor([len(r) for r in lists])[:, None]
    return [torch.tensor(p) for p in prompts], ids, mask  # type: ignore[attr-defined]


def test_the_layout_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts, with 4 and 9 tokens in all: a tree has 6, so the first prompt's three replies take two."""
    monkeypatch.setattr("selfplay.engines.packing.WIDER", (1.0,))
    packed = pack(*ragged(PROMPTS, REPLIES))
    assert packed.ids.tolist() == [[5, 6, 7, 1, 2, 3], [5, 6, 7, 9, 9, 9], [8, 4, 4, 4, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 0]]
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 1], [0, 1, 1, 1, -1, -1]]
    assert packed.roots.tolist() == [[0] * 6, [0] * 6, [0, 0, 0, 0, -1, -1]]
    assert packed.owner.tolist() == [0, 1, 0, 2, 3]
    assert packed.mask.sum(1).tolist() == [2, 1, 3, 3]
    assert packed.rows[packed.mask].tolist() == [0, 0, 0, 2, 2, 2, 1, 1, 1]
    assert packed.columns[packed.mask].tolist() == [2, 3, 2, 0, 1, 2, 2, 3, 4]
    assert packed.replies[packed.mask].tolist() == [1, 2, 3, 4, 4, 4, 9, 9, 9]


def test_trees_share_a_row_where_that_is_less_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6, 6 and 4 tokens: three rows of 6 have two tokens of padding, two of 10 four, one of 16 none."""
    packed = pack(*ragged(PROMPTS, REPLIES))
    assert packed.ids.tolist() == [[5, 6, 7, 1, 2, 3, 5, 6, 7, 9, 9, 9, 8, 4, 4, 4]]
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6, 6, 6]]
    assert packed.roots.tolist() == [[0] * 6 + [3] * 6 + [5] * 4]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3]]
    assert packed.columns[packed.mask].tolist() == [2, 3, 2, 12, 13, 14, 8, 9, 10]
    monkeypatch.setattr(
        devices, "PROCESSOR", replace(devices.PROCESSOR, token_cost=10)
    )  # now attention costs more than padding
    assert pack(*ragged(PROMPTS, REPLIES)).ids.shape == (3, 6)


@pytest.mark.parametrize(
    ("sizes", "width", "rows"),
    [
        ([6, 6, 4], 6, [[0], [1], [2]]),
        ([6, 6, 4], 10, [[0, 2], [1]]),
        ([3, 5, 4, 2], 7, [[1, 3], [0, 2]]),
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
    ],
)
def test_rows_are_filled_by_hand(sizes: list[int], width: int, rows: list[list[int]]) -> None:
    assert sorted(_fill(sizes, width)) == sorted(rows)


def test_who_looks_at_whom_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    together = pack(*ragged(PROMPTS, REPLIES))
    look = together.attention(torch.float32)[0, 0] == 0
    for column, (root, segment) in enumerate(zip(together.roots[0], together.segments[0], strict=True)):
        assert set(together.roots[0][look[column]].tolist()) == {int(root)}, "another tree in the row"
        assert set(together.segments[0][look[column]].tolist()) <= {int(root), int(segment)}
    monkeypatch.setattr("selfplay.engines.packing.WIDER", (1.0,))
    look = pack(*ragged(PROMPTS, REPLIES)).attention(torch.float32)[0, 0] == 0
    assert look.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],  # the second reply does not see the first
    ]


def game(seed: int, vocabulary: int, count: int = 40) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """A few prompts, many replies to some, some of them twice."""
    rng = Random(seed)

    def words(most: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(rng.randint(1, most))]

    prompts = [words(12) for _ in range(6)]
    said = [(rng.choice(prompts), words(9)) for _ in range(count - 8)]
    said += rng.choices(said, k=8)
    return ragged([p for p, _ in said], [r for _, r in said])


def both(model: torch.nn.Module, seed: int, temperature: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probs and the gradient of a sum of their squares: plain, and packed."""
    found = []
    prompts, replies, mask = game(seed, model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    for path in (plain_logprobs, reply_logprobs):
        model.zero_grad()
        out = path(model, prompts, replies, mask, temperature)  # type: ignore[arg-type]
        (out * out).sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((out.detach(), gradient))
    return found


@pytest.mark.parametrize(("seed", "temperature"), [(0, 1.0), (1, 0.7), (2, 2.0)])
def test_packed_is_plain(learner: LanguageModel, seed: int, temperature: float) -> None:
    assert can_pack(learner.model)
    (plain, slope), (packed, packed_slope) = both(learner.model, seed, temperature)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
    assert float((packed_slope - slope).norm() / slope.norm()) < 1e-4
    assert float(slope.norm()) > 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_other_architectures(config: type, attention: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(**SIZES, attn_implementation=attention)).eval()
    perturb(model, 0.2)
    assert can_pack(model)
    (plain, slope), (packed, packed_slope) = both(model, 3, 1.0)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
    assert float((packed_slope - slope).norm() / slope.norm()) < 1e-4


def test_a_sliding_window_is_left_as_it_is() -> None:
    model = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=4)).eval()
    assert not can_pack(model)
    (plain, _), (same, _) = both(model, 4, 1.0)
    assert torch.equal(plain, same)


@pytest.mark.parametrize(
    "config",
    [
        GPTNeoConfig(
            vocab_size=40,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=48,
            window_size=8,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=400,
        ),
        MptConfig(vocab_size=40, d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=400),
        BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=4),
    ],
    ids=lambda config: config.model_type,
)
def test_who_does_not_obey_our_mask_reads_one_reply_a_row(config: PretrainedConfig) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    perturb(model, 0.2)
    assert not can_pack(model)
    assert not can_pack(copy.deepcopy(model).to(torch.bfloat16)), "rounding does not hide it"


def test_rows_of_one_prompt_with_many_replies_are_not_long() -> None:
    """Attention grows with the square of a row."""
    packed = pack(*ragged([[1] * 20] * 96, [[i % 40] * 32 for i in range(96)]))
    assert packed.ids.shape[1] <= 512 and len(packed.owner) == 96
    assert packed.ids.shape[1] > 256
    long = pack(*ragged([[1] * 600] * 4, [[i] * 30 for i in range(4)]))
    assert long.ids.shape == (1, 720)


def test_an_empty_reply_is_laid_out_beside_others() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    packed = pack([torch.tensor([5, 6])] * 2, torch.tensor([[1, 2], [0, 0]]), mask)
    assert packed.ids.tolist() == [[5, 6, 1, 2]] and packed.mask.tolist() == mask.tolist()


def test_a_mask_that_leaks_would_be_seen(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(learner.model)
    assert can_pack(model)  # found out once, before the mask is broken

    def causal(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
        rows, width = packed.ids.shape
        return torch.full((width, width), torch.finfo(dtype).min).triu(1).expand(rows, 1, width, width)

    assert has_own_layers(model)
    monkeypatch.setattr("selfplay.engines.llama.layers.can_branch", lambda model: False)
    monkeypatch.setattr("selfplay.engines.packing.Packed.attention", causal)
    (plain, _), (packed, _) = both(model, 0, 1.0)
    assert float((packed - plain).abs().max()) > 1e-3
