"""Every architecture that transformers knows, as a player and as a reward model: it agrees, or is refused."""

import dataclasses

import pytest
import torch
from architecture_table import (
    ADAPTERS,
    WrongResult,
    check_player,
    verdict,
)
from architectures import KINDS, REWARD_KINDS, UNBUILT, config_of

from selfplay.lm.plain import Plain


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_of_each_kind_agrees(adapter: str) -> None:
    assert verdict(lambda: check_player("qwen3", adapter)) == "agrees"


def test_what_is_left_out_needs_what_is_not_here() -> None:
    assert set(UNBUILT) <= set(KINDS) | set(REWARD_KINDS)
    assert all(dataclasses.is_dataclass(config_of(kind)) for kind in ("llama", "qwen3_5", "bert"))


def test_a_sampler_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Plain._read

    def late(self: Plain, new: torch.Tensor) -> torch.Tensor:
        return read(self, new) + (1e-2 * torch.arange(128) if self.ids.shape[1] > 13 else 0.0)  # beyond the trial

    monkeypatch.setattr(Plain, "_read", late)
    with pytest.raises(WrongResult, match="gpt2 with None at first"):
        check_player("gpt2", None)
