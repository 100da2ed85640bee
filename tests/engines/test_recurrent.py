"""Models that remember otherwise than by keys and values: what is sampled is what each text has alone."""

from pathlib import Path

import pytest
import torch
from architectures import apart, model_of, player_of, saved, step
from transformers import DynamicCache

from selfplay.core import Ask, SelfplayError, user
from selfplay.engines.transformers import decode as plain
from selfplay.engines.transformers.decode import WAYS, Way, way_of
from selfplay.engines.transformers.kv_cache import new_cache
from selfplay.players.mixture import GeometricMixture

RAGGED, EVEN, ANEW = WAYS


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("qwen3_5_text", RAGGED),  # linear attention beside full
        ("falcon_h1", RAGGED),  # a layer of both: batch_select_indices would keep the states of all rows
        ("gemma3_text", RAGGED),  # windows
        ("mamba", EVEN),  # a state that reads the padding
        ("bigbird_pegasus", EVEN),  # places are counted from the beginning of a row
        ("rwkv", ANEW),  # a memory of its own
        ("nemotron_h", ANEW),  # its own steps differ from its own reading
        ("moshi", RAGGED),  # a window in its config that its masks do not have
    ],
)
def test_what_is_sampled_is_what_each_text_has_alone(kind: str, way: Way, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    player = player_of(tmp_path)
    found = apart(player)
    assert way_of(player.model) == way and found.agrees
    step(player, found.batch)
    assert apart(player).agrees


def test_a_wrong_way_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mamba beside padding, and BigBird-Pegasus: the trial says no, and the comparison does, too."""
    for kind in ("mamba", "bigbird_pegasus"):
        saved(kind, tmp_path)
        player = player_of(tmp_path)
        monkeypatch.setitem(plain._ways, player.model, RAGGED)
        assert apart(player).sampler > 1e-2


def test_a_mixture_is_read_in_the_way_that_is_right_for_both(tmp_path: Path) -> None:
    asks = [Ask("solver", user(text), key=text) for text in ("add 3 and 4", "", "reverse abc", "sort 3 1 2")]
    players = []
    for kind in ("mamba", "rwkv"):
        saved(kind, tmp_path / kind)
        players.append(player_of(tmp_path / kind))
    for share in (0.0, 1.0):
        mixed = GeometricMixture(players[0], players[1], share).act(asks)
        assert [reply.text for reply in mixed] == [reply.text for reply in players[int(share)].act(asks)]


def test_what_depends_on_its_company_is_refused(tmp_path: Path) -> None:
    """A model whose rows see one another, as experts of a limited capacity do."""
    model = model_of("gpt2")
    block = model.transformer.h[0]
    block.register_forward_hook(lambda module, given, out: out + out.mean(0, keepdim=True))
    with pytest.raises(SelfplayError, match="GPT2LMHeadModel computes different logits for a text in a batch"):
        way_of(model)


def test_memory_that_is_exhausted_in_a_trial_is_no_answer() -> None:
    model = model_of("gpt2")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.transformer.h[0].register_forward_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        way_of(model)


def test_a_window_that_the_masks_do_not_have_is_not_cut_off() -> None:
    model = model_of("moshi")
    assert any(DynamicCache(config=model.config).is_sliding) and not any(new_cache(model, 4).is_sliding)
    assert any(new_cache(model_of("gemma3_text"), 4).is_sliding)
