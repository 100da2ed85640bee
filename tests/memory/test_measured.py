"""The calculation against whole runs, as measured by experiments/processes/memory.py; the table of docs/scale.md."""

import json
import re
from typing import Any

import cli
import pytest
from configs import config
from transformers import AutoTokenizer, LlamaConfig

from selfplay.memory import table
from selfplay.memory.configured import Given, setup_of
from selfplay.memory.phases import Setup, peak, phases
from selfplay.memory.room import GIB, LIBRARIES
from selfplay.models.load import resolve

MEASURED = json.loads((cli.ROOT / "experiments" / "processes" / "memory.json").read_text())
PARTS = {
    "weights": "learner: weights",
    "gradients": "learner: gradients",
    "optimizer state": "learner: optimizer state",
}


def setup(side: str) -> Setup:
    vocabulary = len(AutoTokenizer.from_pretrained(resolve("asset:tiny")))
    given = Given(1 if side == "none" else 2, None, LlamaConfig(vocab_size=vocabulary, **MEASURED["model"]))
    found = setup_of(config(*MEASURED["run"], f"parallel={side}"), given)
    assert found is not None
    return found


@pytest.mark.parametrize("side", ["none", "ddp", "fsdp"])
def test_the_bytes_of_each_process_are_exact(side: str) -> None:
    calculated = phases(setup(side))["updating"]
    ranks: list[dict[str, Any]] = MEASURED["bytes"][side]
    assert len(ranks) == (1 if side == "none" else 2)
    for part, name in PARTS.items():
        assert ranks[0][part] == calculated[name], part


@pytest.mark.parametrize("side", ["none", "ddp", "fsdp"])
def test_the_peak_of_a_process(side: str) -> None:
    """Scoring is an upper bound, because no batch of the reward model is full; malloc keeps what was freed."""
    calculated = peak(setup(side)) + LIBRARIES * GIB
    for rank in MEASURED["bytes"][side]:
        assert 0.9 < calculated / rank["peak"] < 1.35, calculated / rank["peak"]


def test_the_table_of_the_docs_is_current() -> None:
    """`python -m selfplay.memory.table` after a change of the calculation."""
    text = (cli.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    [block] = re.findall(r"<!-- made by: python -m selfplay.memory.table -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert block == table.markdown()
