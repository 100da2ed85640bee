"""Texts that share the reading of their beginnings end in the states that they have alone; the room in the cache."""

from random import Random

import pytest
import torch
from language_models import perturb
from packed_replies import SIZES
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.cache_utils import DynamicLayer

from selfplay.engines import last_hidden
from selfplay.engines.last_hidden import beginnings, last_states, shares_enough
from selfplay.engines.transformers.kv_cache import BLOCK, PreallocatedLayer, new_cache
from selfplay.players.language_model import LanguageModel

Text = tuple[int, ...]


def texts(rng: Random, families: int, members: int) -> list[Text]:
    """Families of texts with one beginning, all of them behind one more, shuffled; some are there twice."""

    def some(low: int, high: int) -> Text:
        return tuple(rng.randrange(2, 100) for _ in range(rng.randint(low, high)))

    rubric = some(4, 9)
    questions = [rubric + some(0, 12) for _ in range(families)]
    found = [question + some(2, 8) for question in questions for _ in range(members)]
    found += [*rng.sample(found, 2), some(2, 3)]
    rng.shuffle(found)
    return found


def alone(model: PreTrainedModel, text: Text) -> torch.Tensor:
    with torch.no_grad():
        return model.get_decoder()(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state[0, -1]


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("seed", range(3))
def test_the_states_are_those_of_each_text_alone(learner: LanguageModel, seed: int, rows: int) -> None:
    found = texts(Random(seed), families=5, members=4)
    got = last_states(learner.model, found, rows)
    for row, text in zip(got, found, strict=True):
        torch.testing.assert_close(row, alone(learner.model, text), atol=1e-5, rtol=1e-5)


def test_a_leak_between_texts_would_be_seen(learner: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.engines.llama.layers.can_branch", lambda model: False)
    found = texts(Random(0), families=5, members=4)
    right = last_states(learner.model, found, 100)
    monkeypatch.setattr(last_hidden, "beginnings", lambda some: [len(text) - 2 for text in some])
    kept = last_states(learner.model, found, 100)  # nothing shared, nothing leaks
    torch.testing.assert_close(kept, right, atol=1e-5, rtol=1e-5)
    plain = torch.Tensor.tril
    monkeypatch.setattr(torch.Tensor, "tril", lambda mask, *_: plain(mask, 1))
    assert (last_states(learner.model, found, 100) - right).abs().max() > 1e-2


def test_less_is_read(learner: LanguageModel) -> None:
    """Four members a family: of 20 texts with one rubric, the questions are read five times and not twenty."""
    found = sorted(texts(Random(1), families=5, members=4))
    shared = beginnings(found)
    assert all(0 <= n <= len(text) - 2 for text, n in zip(found, shared, strict=True))
    read = {text[:n] for text, n in zip(found, shared, strict=True)}
    own = sum(len(text) - n for text, n in zip(found, shared, strict=True))
    assert own + sum(map(len, read)) < 0.6 * sum(map(len, found))


@pytest.mark.parametrize(
    ("some", "shared"),
    [
        ([(1, 2, 3, 4, 5), (1, 2, 3, 6, 7)], [3, 3]),
        ([(1, 2, 3, 4), (1, 2, 3, 5)], [2, 2]),  # two tokens of each are its own
        ([(1, 2), (1, 2, 3)], [0, 0]),
        ([(1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 8, 9), (1, 9, 9, 9)], [5, 5, 2]),  # the third costs more than it saves
        ([(1, 2, 3, 4, 5), (1, 2, 3, 4, 5)], [3, 3]),
        ([(7,)], [0]),
        ([(1, *range(9), 20 + i, i) for i in range(3)] + [(2, *range(9), 30 + i, i) for i in range(3)], [10] * 6),
    ],
)
def test_what_is_read_together_by_hand(some: list[Text], shared: list[int]) -> None:
    assert beginnings(some) == shared


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES), Qwen3Config(**SIZES), MistralConfig(**SIZES, sliding_window=4)],
    ids=lambda config: config.model_type,
)
def test_other_architectures(config: PretrainedConfig) -> None:
    """One that cannot share reads each text alone; so does everyone where a text of one token has nothing to share."""
    model = AutoModelForCausalLM.from_config(config).eval()
    perturb(model, 0.2)
    found = [(5, 6, 7, 8, 9), (5, 6, 7, 8, 3), (4, 9, 9)]
    for some in (found, [*found, (3,)]):
        got = last_states(model, some, 2)
        for row, text in zip(got, some, strict=True):
            torch.testing.assert_close(row, alone(model, text), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shared", "own", "members", "worth"),
    [(30, 200, 32, False), (1, 1000, 32, False), (30, 30, 8, True), (9, 1, 2, True)],
)
def test_texts_that_share_little_are_read_one_a_row(shared: int, own: int, members: int, worth: bool) -> None:
    """A row of many takes more attention; what is there twice counts once."""
    family = [(*range(shared), *(1000 * i + k for k in range(own + 1))) for i in range(1, members + 1)]
    assert shares_enough(family) == shares_enough(family * 4) == worth
    assert not shares_enough([*family, (1,)])


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_is_transformers_own(learner: LanguageModel) -> None:
    """Read, repeat rows, say, lose rows, say more than there was room for: the same keys and values at every moment."""
    ours, theirs = new_cache(learner.model, room=3), DynamicCache(config=learner.model.config)
    assert all(isinstance(layer, PreallocatedLayer) for layer in ours.layers)
    rng = torch.Generator().manual_seed(0)
    for rows, width, kept in (
        (2, 4, [0, 0, 1, 1, 1]), (5, 1, None), (5, 1, [4, 0]), (2, 1, None), (2, 2, None), (2, 5, [1]), (1, 1, None)
    ):  # fmt: skip
        for layer in range(len(ours.layers)):
            keys, values = torch.randn(2, rows, 3, width, 8, generator=rng)
            for got, right in zip(ours.update(keys, values, layer), theirs.update(keys, values, layer), strict=True):
                assert torch.equal(got, right)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.layers[0].get_mask_sizes(1) == theirs.layers[0].get_mask_sizes(1)
        if kept is not None:
            ours.batch_select_indices(torch.tensor(kept))
            theirs.batch_select_indices(torch.tensor(kept))


def test_a_token_moves_nothing_while_there_is_room() -> None:
    layer = PreallocatedLayer(room=4)
    layer.update(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 2, 1))
    place = layer.keys.data_ptr()
    for _ in range(4):
        layer.update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
        assert layer.keys.data_ptr() == place
    layer.update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert layer.keys.data_ptr() != place and layer.get_seq_length() == 7


def test_no_more_room_than_can_be_needed() -> None:
    """Not for what was said already, and not for a long reply before it is long."""
    layer = PreallocatedLayer(room=1000)
    layer.update(torch.ones(3, 1, 50, 1), torch.ones(3, 1, 50, 1))
    sizes = set()
    for t in range(1000):
        layer.update(torch.ones(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
        sizes.add(layer._keys.shape[-2])  # type: ignore[union-attr]
        assert layer._keys.shape[-2] <= min(51 + t + BLOCK, 1050)  # type: ignore[union-attr]
    assert len(sizes) <= 1 + 1000 // BLOCK
    late = PreallocatedLayer(room=1000)
    late.update(torch.ones(3, 1, 1000, 1), torch.ones(3, 1, 1000, 1))
    late._most = 1010
    late.batch_select_indices(torch.tensor([2]))
    assert late._keys.shape == (1, 1, 1010, 1)  # type: ignore[union-attr]


def test_what_moves_the_states_is_noticed() -> None:
    """Methods of the base class that nobody here calls."""
    layer, plain = PreallocatedLayer(room=4), DynamicLayer()
    one, two = torch.arange(6.0).reshape(2, 1, 3, 1), torch.ones(2, 1, 1, 1)
    for each in (layer, plain):
        each.update(one, one)
        each.reorder_cache(torch.tensor([1, 0]))
        each.update(two, two)
        each.batch_repeat_interleave(2)
        each.crop(-2)
        each.update(torch.zeros(4, 1, 1, 1), torch.zeros(4, 1, 1, 1))
    assert torch.equal(layer.keys, plain.keys) and layer.keys[:, 0, :, 0].tolist() == [[3, 4, 0]] * 2 + [[0, 1, 0]] * 2
    for each in (layer, plain):
        each.reset()
        each.update(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 2, 1))
    assert torch.equal(layer.keys, plain.keys) and layer.get_seq_length() == 2


def test_layers_of_another_kind_keep_their_own_cache() -> None:
    model = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=4))
    assert not any(isinstance(layer, PreallocatedLayer) for layer in new_cache(model, room=3).layers)
