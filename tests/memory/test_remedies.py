"""Which changes make a run fit, and in which order they are proposed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from configs import config

from selfplay.memory.configured import Given, learner_of, setup_of
from selfplay.memory.model import Model, llama_of
from selfplay.memory.phases import Setup, peak
from selfplay.memory.remedies import LORA, LORA_TEXT, Remedy, remedies

LARGE = llama_of(None, layers=16, hidden=1024, intermediate=4096, heads=16, kv_heads=8, vocabulary=1000)
KINDS = (
    "update.micro_batch",
    "player.batch_size",
    "player.gradient_checkpointing",
    "'player.lora",
    "parallel",
    "engine",
)


@pytest.fixture(scope="module")
def setup() -> Setup:
    found = setup_of(config("player=hf", "reward=none"), Given(config=LARGE))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def adapted() -> Model:
    found = learner_of(config("player=hf", "reward=none"), Given(config=LARGE), LORA)
    assert found is not None
    return found


def proposed(setup: Setup, limit: float, adapted: Callable[[], Model] | None) -> list[Remedy]:
    found = remedies(setup, adapted, lambda one: peak(one) <= limit)
    assert all(peak(remedy.setup) <= limit for remedy in found)
    return found


def test_each_change_that_suffices_alone_is_proposed_in_order(setup: Setup, adapted: Model) -> None:
    texts = [remedy.text for remedy in proposed(setup, 0.95 * peak(setup), lambda: adapted)]
    kinds = [text.partition("=")[0] for text in texts]
    assert len(kinds) >= 3 and kinds == [kind for kind in KINDS if kind in kinds]
    assert "update.micro_batch=8" in texts, "the smallest change of its kind"


def test_a_combination_has_no_superfluous_change(setup: Setup, adapted: Model) -> None:
    both = replace(setup, learner=adapted, checkpointing=True)
    [found] = proposed(setup, peak(both), lambda: adapted)
    assert found.text == f"player.gradient_checkpointing=true {LORA_TEXT}"


def test_nothing_suffices(setup: Setup, adapted: Model) -> None:
    assert proposed(setup, 1e6, lambda: adapted) == []


def test_an_adapter_is_not_proposed_to_one_that_has_it(setup: Setup) -> None:
    texts = " ".join(remedy.text for remedy in proposed(setup, 0.5 * peak(setup), None))
    assert texts and "lora" not in texts
