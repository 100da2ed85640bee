"""These tests run on the device that DEVICE names: `DEVICE=cuda pytest tests/on_device`. Without it none is collected;
tests/test_other_device.py then runs them on the pretend device, in a process of its own."""

import os
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from selfplay.models.load import resolve

DEVICE = os.environ.get("DEVICE")
collect_ignore_glob = [] if DEVICE else ["test_*.py"]
if DEVICE == "pretend":
    import pretend  # noqa: F401  (registers the device)
ASSETS = {"asset:tiny": AutoModelForCausalLM, "asset:tiny-rm": AutoModelForSequenceClassification}


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded models with only their first layer: a step then takes half the time."""
    found = {}
    for asset, auto in ASSETS.items():
        found[asset] = tmp_path_factory.mktemp("shallow") / asset.partition(":")[2]
        config = AutoConfig.from_pretrained(resolve(asset), num_hidden_layers=1)
        auto.from_pretrained(resolve(asset), config=config).save_pretrained(found[asset])
        AutoTokenizer.from_pretrained(resolve(asset)).save_pretrained(found[asset])
    return found
