"""Every architecture that transformers knows, as a player and as a reward model: it agrees, or is refused."""

import dataclasses
import re
from functools import partial

import pytest
import torch
from architecture_table import (
    ADAPTERS,
    WrongResult,
    adapter_by_turns,
    check_player,
    check_reward,
    verdict,
    verdicts_in_docs,
)
from architectures import KINDS, REWARD_KINDS, UNBUILT, config_of

from selfplay.engines.transformers.decode import HFDecodeState


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_of_each_kind_agrees(adapter: str) -> None:
    assert verdict(lambda: check_player("qwen3", adapter)) == "agrees"


def test_every_adapter_has_its_turn() -> None:
    tried = {adapter_by_turns(kind) for kind in KINDS[1::2] if PLAYERS[kind].startswith("agrees")}
    assert tried == set(ADAPTERS)


def test_what_is_left_out_needs_what_is_not_here() -> None:
    assert set(UNBUILT) <= set(KINDS) | set(REWARD_KINDS)
    assert all(dataclasses.is_dataclass(config_of(kind)) for kind in ("llama", "qwen3_5", "bert"))


def test_a_sampler_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    read = HFDecodeState._read

    def late(self: HFDecodeState, new: torch.Tensor) -> torch.Tensor:
        return read(self, new) + (1e-2 * torch.arange(128) if self.ids.shape[1] > 13 else 0.0)  # beyond the trial

    monkeypatch.setattr(HFDecodeState, "_read", late)
    with pytest.raises(WrongResult, match="gpt2 with None at first"):
        check_player("gpt2", None)


# --- all of them ------------------------------------------------------------------------------------------------------

PLAYERS, REWARDS = verdicts_in_docs()


def refused(said: str) -> set[str]:
    """The adapters that the table says are refused on a kind."""
    return {name for names in re.findall(r"; with ([\w, -]+):", said) for name in names.split(", ")}


def test_the_committed_tables_have_every_kind_and_none_that_is_wrong() -> None:
    assert set(PLAYERS) == set(KINDS) and set(REWARDS) == set(REWARD_KINDS)
    assert not [kind for table in (PLAYERS, REWARDS) for kind, said in table.items() if "wrong" in said]
    assert {kind for table in (PLAYERS, REWARDS) for kind, said in table.items() if "not tried" in said} == set(UNBUILT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNBUILT])
def test_a_player_of_every_kind_agrees_or_is_refused_as_the_table_says(kind: str) -> None:
    """Every other kind is tried with an adapter, to save time; the command that makes the table tries both."""
    agrees = PLAYERS[kind].startswith("agrees")
    adapter = adapter_by_turns(kind) if agrees and KINDS.index(kind) % 2 else None
    assert (verdict(partial(check_player, kind, adapter)) == "agrees") == (
        agrees and adapter not in refused(PLAYERS[kind])
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in REWARD_KINDS if kind not in UNBUILT])
def test_a_reward_model_of_every_kind_agrees_or_is_refused_as_the_table_says(kind: str) -> None:
    assert (verdict(partial(check_reward, kind)) == "agrees") == (REWARDS[kind] == "agrees")
