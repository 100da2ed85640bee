"""What a config's memory consists of, by phase."""

from pathlib import Path
from typing import Any

import pytest
from configs import config

from selfplay.core import SelfplayError
from selfplay.memory import parts
from selfplay.memory.configured import Given, setup_of
from selfplay.memory.model import llama_of
from selfplay.memory.phases import PHASES, Setup, peak, phases, total

SMALL = llama_of(None, layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=500)
MODEL = 4 * (2 * 500 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64)  # bytes in float32


def setup(*options: str, processes: int = 1, by_hand: Any = SMALL) -> Setup:
    found = setup_of(config(*options), Given(processes, None, by_hand))
    assert found is not None
    return found


def test_full_fine_tuning() -> None:
    """Weights, a gradient, two tensors of AdamW with a step per parameter, and a reference as large as the learner."""
    one = setup("reward=none", "quality=none")
    found = phases(one)
    steps = 4 * len(one.learner.weights)
    for phase in PHASES:
        assert found[phase]["learner: weights"] == found[phase]["reference"] == MODEL
        assert found[phase]["learner: optimizer state"] == 2 * MODEL + steps
    assert found["updating"]["learner: gradients"] == MODEL and "learner: gradients" not in found["playing"]
    assert "decoder" in found["playing"] and "decoder" not in found["updating"]
    assert peak(one) == max(total(found[phase]) for phase in PHASES)


def test_lora_has_one_base_for_all() -> None:
    full = setup("player=tiny_lora", "opponent=uniform", "opponent.every=10", "steps=100", "game=kuhn", "eval=none")
    found, adapter = phases(full)["playing"], parts.adapter(full.learner)
    assert found["learner: weights"] == MODEL + adapter and found["reference"] == adapter
    assert full.snapshots == 10 and found["snapshots"] == 10 * adapter
    own = phases(setup("player=tiny_lora", "game=kuhn", "eval=none"))["playing"]
    assert found["decoder"] == 2 * own["decoder"]  # an opponent's is built beside the learner's
    assert phases(full)["updating"]["learner: gradients"] == adapter


@pytest.mark.parametrize(
    ("options", "count", "aside"),
    [
        (("opponent=latest",), 0, False),
        (("opponent=uniform", "opponent.every=10", "steps=95"), 9, False),
        (("opponent=league", "opponent.every=20", "opponent.exploit=10", "steps=60"), 4, True),
        (("update.magnet_every=5",), 1, False),
    ],
)
def test_snapshots(options: tuple[str, ...], count: int, aside: bool) -> None:
    found = setup("game=kuhn", "eval=none", *options)
    assert (found.snapshots, found.aside) == (count, aside)
    state = phases(found)["playing"]["learner: optimizer state"]
    assert state == (2 if aside else 1) * parts.optimizer_state(found.learner, found.optimizer)


def test_what_fsdp_splits_and_when() -> None:
    """A third while updating, with what a pass gathers; everything while playing."""
    alone = phases(setup("reward=none"))
    three = phases(setup("reward=none", "parallel=fsdp", processes=3))
    for part in ("learner: weights", "reference", "learner: optimizer state", "learner: gradients"):
        assert alone["updating"][part] / 3 <= three["updating"][part] < 1.05 * alone["updating"][part] / 3
    assert three["playing"]["gathered weights"] == 2 * MODEL
    block = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64)
    assert three["updating"]["gathered weights"] == 4 * (2 * 500 * 64 + 64) + 2 * block
    data_parallel = phases(setup("reward=none", "parallel=ddp", processes=3))
    assert data_parallel["updating"]["learner: weights"] == MODEL and "gathered weights" not in data_parallel["playing"]


def test_the_adapter_is_not_split() -> None:
    two = setup("player=tiny_lora", "reward=none", "parallel=fsdp", processes=2)
    adapter, found = parts.adapter(two.learner), phases(two)["updating"]
    assert found["learner: gradients"] == found["reference"] == adapter
    assert adapter + MODEL / 2 <= found["learner: weights"] < adapter + 1.05 * MODEL / 2


def test_scorers() -> None:
    """A reward model is held whole by every process; what is on a server needs nothing; a self-judge reads."""
    learnt = setup("reward=rm", "quality=none", "parallel=fsdp", processes=2)
    assert [scorer.name for scorer in learnt.scorers] == ["reward model"]
    size = parts.weights(learnt.scorers[0].model)
    assert all(found["reward model"] == size for found in phases(learnt).values())
    assert setup("reward=rm_server").scorers == () and not setup("reward=rm_server", "quality=none").judges
    assert setup("reward=judge").scorers == () and not setup("reward=judge", "quality=none").judges
    assert setup("quality=selfjudge").judges and setup("quality=selfjudge_written").frozen_scoring
    ensemble = setup("reward=ensemble", "quality=none")
    assert len(ensemble.scorers) == 1 and ensemble.judges


def test_a_reward_model_that_cannot_be_read() -> None:
    """With the learner's sizes by hand it counts as large as the learner, and says so; otherwise it is an error."""
    found = setup("reward.path=nobody/nothing")
    assert found.scorers[0].name == "reward model (as large as the learner)"
    assert parts.weights(found.scorers[0].model) == MODEL
    with pytest.raises(SelfplayError, match=r"the config of the model 'nobody/nothing' cannot be read .* config.json"):
        setup("reward.path=nobody/nothing", by_hand=None)


def test_engines() -> None:
    embedded, others = setup(), {name: setup(f"engine={name}") for name in ("transformers", "server")}
    assert phases(embedded)["playing"]["decoder"] == embedded.learner.decoder
    assert "decoder" not in phases(others["transformers"])["playing"]
    assert "keys and values" in phases(others["transformers"])["playing"]
    assert "keys and values" not in phases(others["server"])["playing"]


def test_a_model_s_folder_a_config_and_an_asset(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        found = setup(f"player.path={path}", by_hand=None)
        assert parts.weights(found.learner) == MODEL
    assert 0.5e6 < setup(by_hand=None).learner.parameters < 1.5e6


def test_a_table_needs_nothing() -> None:
    assert setup_of(config("player=tabular", "game=kuhn"), Given()) is None


def test_processes_need_a_way_to_share_the_run() -> None:
    with pytest.raises(SelfplayError, match="processes is 2, but parallel is none"):
        setup(processes=2)
