"""A token step and a micro-batch wait for the device no more often than experiments/gpu/README.md says."""

import importlib.util
import json
import os
from typing import Any

import cli
import pytest

FOLDER = cli.ROOT / "experiments" / "gpu"


@pytest.mark.skipif(os.environ["DEVICE"] != "pretend", reason="only the pretend device counts")
def test_the_counts_are_the_committed_ones() -> None:
    spec = importlib.util.spec_from_file_location("counts", FOLDER / "counts.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = json.loads((FOLDER / "counts.json").read_text())
    assert module.table(committed) in (FOLDER / "README.md").read_text()
    found = module.measured()
    assert {name: waits for name, (_, waits) in found.items()} == {n: w for n, (_, w) in committed["after"].items()}
    for name, (launches, waits) in found.items():
        assert waits <= 2 and launches == pytest.approx(committed["after"][name][0], rel=0.1), name
