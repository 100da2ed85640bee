"""Which changes make a run fit, and in which order they are proposed."""

from dataclasses import replace

from configs import config

from selfplay.memory.configured import Given, learner_of, setup_of
from selfplay.memory.model import llama_of
from selfplay.memory.phases import Setup, peak
from selfplay.memory.remedies import LORA, LORA_TEXT, Remedy, remedies

LARGE = llama_of(None, layers=16, hidden=1024, intermediate=4096, heads=16, kv_heads=8, vocabulary=1000)
GIVEN, CFG = Given(config=LARGE), config("player=hf", "reward=none")


def proposed(setup: Setup, limit: float, lora: bool = True) -> list[Remedy]:
    found = remedies(setup, (lambda: adapted) if lora else None, lambda one: peak(one) <= limit)
    assert all(peak(remedy.setup) <= limit for remedy in found)
    return found


def made() -> Setup:
    found = setup_of(CFG, GIVEN)
    assert found is not None
    return found


SETUP = made()
adapted = learner_of(CFG, GIVEN, LORA)
assert adapted is not None


def test_each_change_that_suffices_alone_is_proposed_in_order() -> None:
    texts = [remedy.text for remedy in proposed(SETUP, 0.95 * peak(SETUP))]
    assert texts[0].startswith("update.micro_batch=") and LORA_TEXT in texts
    kinds = [text.partition("=")[0] for text in texts]
    assert kinds == [
        name
        for name in ("update.micro_batch", "player.gradient_checkpointing", "'player.lora", "parallel")
        if name in kinds
    ]
    assert "update.micro_batch=8" in texts, "the smallest change of its kind"


def test_a_combination_has_no_superfluous_change() -> None:
    both = replace(SETUP, learner=adapted, checkpointing=True)
    [found] = proposed(SETUP, peak(both))
    assert found.text == f"player.gradient_checkpointing=true {LORA_TEXT}"


def test_nothing_suffices() -> None:
    assert proposed(SETUP, 1e6) == []


def test_an_adapter_is_not_proposed_to_one_that_has_it() -> None:
    texts = " ".join(remedy.text for remedy in proposed(SETUP, 0.5 * peak(SETUP), lora=False))
    assert texts and "lora" not in texts
