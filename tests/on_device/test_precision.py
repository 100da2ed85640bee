"""On an accelerator products are in bfloat16 by default, weights are read straight to it, and nothing else changes."""

import os
from pathlib import Path
from typing import Any

import cli
import pytest
import torch
from language_models import made
from transformers import AutoModelForCausalLM

from selfplay.models.load import load_model

DEVICE = os.environ["DEVICE"]


@pytest.mark.parametrize(
    ("changes", "compute", "told"),
    [
        ({}, torch.bfloat16, "bfloat16"),
        ({"compute_dtype": "float32"}, None, "float32"),
        ({"compute_dtype": None}, None, "float32"),
        ({"dtype": "bfloat16"}, None, "bfloat16"),
    ],
    ids=str,
)
def test_the_default_is_bfloat16(changes: dict[str, Any], compute: torch.dtype | None, told: str) -> None:
    policy = made(device=DEVICE, **changes)
    assert policy.compute_dtype == compute and policy.model.dtype == getattr(torch, changes.get("dtype", "float32"))
    assert policy.ways()["matrix products"].startswith(told)
    assert policy.ways()["matrix products"].endswith(f"on {torch.device(DEVICE).type}")
    assert made(**changes).compute_dtype is None, "not on the CPU"


def test_a_run_says_so(tmp_path: Path) -> None:
    args = (*cli.SMALL, "steps=0", "eval=heldout", "task.per_cell=1", f"device={DEVICE}", f"hydra.run.dir={tmp_path}")
    assert "; matrix products: bfloat16 on " in cli.run(*args).out


def test_weights_are_read_straight_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Auto:
        @staticmethod
        def from_pretrained(*args: Any, **options: Any) -> Any:
            found = AutoModelForCausalLM.from_pretrained(*args, **options)
            model = found[0] if isinstance(found, tuple) else found
            read.extend(p.device.type for p in (*model.parameters(), *model.buffers()))
            return found

    for device in (DEVICE, "cpu"):
        read.clear()
        model = load_model(Auto, "asset:tiny", "float32", device, "sdpa")
        assert set(read) == {torch.device(device).type} and model.device.type == torch.device(device).type
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
