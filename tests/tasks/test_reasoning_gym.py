"""Reasoning Gym: the same questions each time, its own scorer, and nothing that an answer could make it compute."""

import random
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import reasoning_gym
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS

from selfplay.core import SelfplayError
from selfplay.tasks import reasoning_gym as ours
from selfplay.tasks.reasoning_gym import ReasoningGym
from selfplay.tasks.safe_eval import harmless
from selfplay.tasks.scorers import reasoning_gym_set

QUICK = {"chain_sum", "leg_counting", "list_functions", "pool_matrix"}  # the last two draw from the global generators
SLOW = {
    "composite",
    "futoshiki",
    "knight_swap",
    "zebra_puzzles",
    "arc_agi",
    "rearc",
}  # seconds to make, or made of others


def gym(*names: str, **changes: Any) -> ReasoningGym:
    options: dict[str, Any] = {"options": {}, "size": 20, "held_out": 5, "seed": 0, "instruction": None}
    return ReasoningGym(list(names), **{**options, **changes})


def test_questions_and_scores_are_its_own() -> None:
    task = gym("chain_sum", instruction=None)
    seed = Random("0/held-out").randrange(2**31)
    dataset = reasoning_gym.create_dataset("chain_sum", size=5, seed=seed)
    assert [(i.question, i.answer) for i in task.held_out()] == [(e["question"], e["answer"]) for e in dataset]
    for item, entry in zip(task.held_out(), dataset, strict=True):
        for reply in (entry["answer"], f"+{entry['answer']}.0", "7", "", f"it is {entry['answer']}"):
            assert task.correct(item, reply) == dataset.score_answer(reply, entry)
            assert task.correct(item, f"Well 5.\n<answer> {reply} </answer>") == dataset.score_answer(
                reply.strip(), entry
            )
    assert (
        task.correct(task.held_out()[0], "<answer>1</answer><answer>" + task.held_out()[0].answer + "</answer>") == 1.0
    )


def test_partial_scores_stay() -> None:
    task = gym("letter_counting")
    item = task.held_out()[0]
    assert 0 < task.correct(item, f"it is {item.answer}") < 1 == task.correct(item, item.answer)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(DATASETS) - SLOW)],
)
def test_every_data_set_is_reproducible_and_leaves_global_luck_alone(name: str) -> None:
    made = []
    for seed in (1, 2):
        ours._entries.cache_clear()
        random.seed(seed)
        np.random.seed(seed)
        state, numpys = random.getstate(), np.random.get_state()[1].tolist()
        task = gym(name, size=3, held_out=2)
        made.append([(i.question, i.answer) for i in task.held_out()] + [task.draw(Random(i)) for i in range(9)])
        assert random.getstate() == state and np.random.get_state()[1].tolist() == numpys
    assert made[0] == made[1]


def test_options_and_several_at_once() -> None:
    task = gym(
        "chain_sum", "leg_counting", options={"chain_sum": {"min_terms": 2, "max_terms": 2}}, instruction="Be brief."
    )
    names = {item.labels["tasks"] for item in task.held_out()}
    assert names == {"chain_sum", "leg_counting"} and all(i.question.endswith("\nBe brief.") for i in task.held_out())
    assert all(
        i.question.count(" + ") + i.question.count(" - ") == 1
        for i in task.held_out()
        if i.labels["tasks"] == "chain_sum"
    )


def test_a_question_that_comes_up_in_both_is_held_out() -> None:
    few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    task = gym("chain_sum", options={"chain_sum": few}, size=300, held_out=100)
    held = {item.question for item in task.held_out()}
    drawn = {task.draw(Random(i)) for i in range(3000)}
    assert not held & drawn and len(drawn) > 20


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["chain_sun"], {}, "no data set 'chain_sun'; choose another, for example chain_sum"),
        ([], {}, "task.names is"),
        (["chain_sum", "chain_sum"], {}, "at least one data set, each once"),
        (["chain_sum"], {"options": {"x": {}}}, "task.options has 'x'"),
        (["chain_sum"], {"options": {"chain_sum": {"terms": 3}}}, "cannot generate 'chain_sum'"),
        (["chain_sum"], {"options": {"chain_sum": {"min_terms": 9, "max_terms": 2}}}, "cannot generate 'chain_sum'"),
        (["chain_sum"], {"size": 0}, "task.size is 0"),
        (["composite"], {"options": {"composite": {"datasets": [{"name": "x"}]}}}, "task.options.composite contains"),
    ],
)
def test_mistakes(names: list[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SelfplayError, match=message):
        gym(*names, **changes)


def test_what_is_no_number_is_no_answer() -> None:
    """Its scorer finds "nan" within its tolerance of any number."""
    task = gym("complex_arithmetic")
    item = task.held_out()[0]
    entry = task._known[item.question]
    assert reasoning_gym_set(*entry.dataset).score_answer("nan", dict(entry.record)) == 1.0
    assert task.correct(item, "nan") == task.correct(item, "<answer>NaN</answer>") == 0.0


# --- answers that would be computed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["binary_matrix", "spiral_matrix", "string_insertion", "n_queens", "countdown", "puzzle24"]
)
def test_an_answer_runs_no_code(name: str, tmp_path: Path) -> None:
    """These scorers call eval, or sympy's: shown the same text directly, some of them do what it says."""
    task = gym(name, size=2, held_out=1)
    item = task.held_out()[0]
    assert task._known[item.question].computes
    target = tmp_path / "made"
    for attack in (
        f"open('{target}', 'w')",
        f"[open('{target}', 'w')]",
        f"__import__('pathlib').Path('{target}').touch()",
    ):
        assert task.correct(item, attack) < 1.0 and not target.exists()


def test_the_attack_would_work_without_the_guard(tmp_path: Path) -> None:
    entry = next(iter(gym("spiral_matrix", size=2, held_out=1)._known.values()))
    scorer = reasoning_gym_set(*entry.dataset)
    scorer.score_answer(f"[open('{tmp_path / 'made'}', 'w')]", dict(entry.record))
    assert (tmp_path / "made").exists(), "Reasoning Gym no longer evaluates answers: the guard can go"


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "-3.5",
        "1/2",
        "(3+4)*2 - x**2",
        "sin(x)*exp(2*x) + C",
        "[[1, 0], [0, 1]]",
        "['a', 'b']",
        "ABC",
        "_ Q _\nQ _ _",
    ],
)
def test_plain_answers_are_harmless(text: str) -> None:
    assert harmless(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "2^(3^4)",
        "10**99999",
        "1e999999",
        "9!",
        "factorial(9)",
        "exit()",
        "x.__class__",
        "().__class__",
        "[1][0]()",
        "lambda: 1",
        "'a'*9",
        "x" * 501,
        "a.b",
        "f'{x}'",
        "(1)(2)",
        "{1: exit()}",
        "2**-(3**4)",
        "10**(999*999*999)",
        "10**(x-999*999*-999)",
        "((9**99)**99)**99",
        "(10**999)*(10**999)",
        "1e301",
    ],
)
def test_others_are_not(text: str) -> None:
    assert not harmless(text)


COMPUTING = ["countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"]
COMPUTING += ["binary_matrix", "spiral_matrix", "string_insertion", "n_queens", "number_sorting"]
ENDLESS = {
    "power": "10**(999*999*999)",
    "powers": "9**9**9**9",
    "power of a name": "x**(x**(10**9))*10**(999*99999)",
    "factorial": "99999!",
    "shift": "1<<10**9",
    "text": "'a'*10**10",
    "list": "[0]*10**10",
    "brackets": "(" * 240 + "1" + ")" * 240,
    "lists": "[" * 240 + "1" + "]" * 240,
    "signs": "-" * 490 + "1",
    "numeral": "7" * 499,
    "long numeral": "7" * 1999,
    "exponents": "exp(exp(exp(exp(exp(99)))))",
    "exponent": "1e99999999",
    "fraction": "1e-99999999/3",
    "infinity": "1e999",
}


@pytest.mark.parametrize(
    "name", [*COMPUTING, "coin_flip", "power_function", "decimal_arithmetic", "fraction_simplification"]
)
def test_no_answer_computes_for_long(name: str) -> None:
    task = gym(name, size=2, held_out=1)
    item = task.held_out()[0]
    right = task.correct(item, item.answer)  # starts the worker
    assert right == 1.0
    for kind, answer in ENDLESS.items():
        begun = time.monotonic()
        assert task.correct(item, answer) < 0.1, kind
        assert time.monotonic() - begun < 60, kind  # of the clock; of the processor, see test_bounded
    assert task.correct(item, item.answer) == 1.0


def test_a_set_made_of_others_computes_what_they_compute() -> None:
    for part, computes in (("countdown", True), ("chain_sum", False)):
        spec = DatasetSpec(name=part, weight=1, config={})
        assert ours._computes(reasoning_gym.create_dataset("composite", size=1, datasets=[spec])) == computes
