"""IFBench: this project's scores are those of the benchmark's own evaluation code, prompt by prompt."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from selfplay.core import SelfplayError
from selfplay.evaluations.ifbench import InstructionFollowing
from selfplay.tasks import ifbench
from selfplay.tasks.ifbench import UNREADABLE, IFBench, Prompt
from selfplay.tasks.seeding import seeded
from selfplay.tasks.tiny_world import TinyWorld

TASK = IFBench(held_out_share=1.0, longest=None)
WORDS = [*".!?;:,()[]*-#\"'😀\n", "the", "a", "and", "but", "I", "you", "it", "1", "22", "Paris", "racecar"]
WORDS += ["Yes", "no", "...", "SEPARATOR", "\n\n"]
BY_HAND = (
    "",
    " ",
    "Yes",
    "yes.",
    "a), b), c)",
    "* one\n* two\n  * three",
    "1,2,3\n4,5,6",
    '"x" and "y"',
    "!!!",
    "\ud800",
    "A b. C d! E f?",
)


@pytest.fixture(autouse=True)
def offline() -> Iterator[None]:
    """The benchmark's own code would fetch data."""
    with ifbench._offline():
        yield


def benchmark() -> Any:
    """The benchmark's own module, loaded by ours."""
    ifbench.load()
    from ifbench import evaluation_lib

    return evaluation_lib


def own(prompt: Prompt, reply: str, mode: str) -> list[bool] | None:
    """The list of flags that the benchmark's code gives to a whole prompt; None where it fails."""
    code = benchmark()
    example = code.InputExample("", list(prompt.constraints), prompt.text, [dict(o) for o in prompt.options])
    try:
        with seeded(f"{prompt.text}/0"):  # the only constraint that draws stands first in its prompts
            flags = getattr(code, f"test_instruction_following_{mode}")(example, {prompt.text: reply})
    except UNREADABLE:
        return None
    return list(flags.follow_instruction_list)


def replies(prompt: Prompt) -> list[str]:
    sample = Path(benchmark().__file__).parent / "data" / "sample_output.jsonl"
    found = [json.loads(line) for line in sample.read_text().splitlines()]
    rng = Random(prompt.text)
    made = [
        "".join(rng.choice((" ", "", "\n")) + rng.choice(WORDS) for _ in range(rng.choice((3, 30, 200))))
        for _ in range(4)
    ]
    return [*BY_HAND, *made, prompt.text, *(r["response"] for r in found if r["prompt"] == prompt.text)]


def test_every_runnable_prompt_is_judged_as_by_the_benchmark() -> None:
    compared, kept, constraints = 0, 0, set()
    for prompt in TASK.whole.values():
        for reply in replies(prompt):
            strict, loose = own(prompt, reply, "strict"), own(prompt, reply, "loose")
            verdict = TASK.verdict(prompt, reply)
            assert len(verdict.strict) == len(verdict.loose) == len(prompt.constraints)
            if strict is not None:
                assert list(verdict.strict) == strict, (prompt.constraints, reply)
            if loose is not None:
                assert list(verdict.loose) == loose, (prompt.constraints, reply)
            if strict is not None and loose is not None:
                compared, kept = compared + 1, kept + any(strict)
                constraints |= set(prompt.constraints)
                assert verdict.unreadable == 0
            else:
                assert verdict.unreadable > 0
            item = TASK.item(prompt.text)
            assert item is not None and TASK.correct(item, reply) == float(all(verdict.strict))
    assert compared > 15 * len(TASK.whole) and kept > 200, "mostly readable, and not all of it wrong"
    named = {name for prompt in ifbench.load().prompts for name in prompt.constraints}
    assert constraints | set(TASK.missing) >= named, "every constraint is compared or named as missing"


def test_the_figures_are_the_benchmark_s_report(capsys: pytest.CaptureFixture[str]) -> None:
    code = benchmark()
    said = [replies(prompt)[-1] for prompt in TASK.asked]
    summary = InstructionFollowing(TASK, 0.0, 1).summary(said)
    whole = [(p, r) for p, r in zip(TASK.asked, said, strict=True) if p.text in TASK.whole]
    for mode, prompt_level in (("strict", "accuracy"), ("loose", "prompt_loose")):
        outputs = []
        for prompt, reply in whole:
            flags = own(prompt, reply, mode)
            assert flags is not None
            outputs.append(code.OutputExample(list(prompt.constraints), prompt.text, reply, all(flags), flags))
        report = code.generate_report(outputs, mode)
        assert summary[prompt_level] == pytest.approx(report[f"{mode}:prompt-level"])
        flags = [f for o in outputs for f in o.follow_instruction_list]
        partial = [TASK.verdict(p, r) for p, r in zip(TASK.asked, said, strict=True) if p.text not in TASK.whole]
        flags += [f for v in partial for f in getattr(v, mode) if f is not None]
        assert summary[f"instruction_{mode}"] == pytest.approx(sum(flags) / len(flags))
    assert 0.2 < summary["accuracy"] < summary["prompt_loose"] < 0.9  # type: ignore[operator]


def test_what_cannot_run_is_named_and_counted() -> None:
    summary = InstructionFollowing(TASK, 0.0, 1).summary(["no"] * len(TASK.asked))
    every = [name for prompt in ifbench.load().prompts for name in prompt.constraints]
    assert summary["instructions"] + summary["skipped_instructions"] == len(every) == 335  # type: ignore[operator]
    named = summary["skipped"]
    assert isinstance(named, list) and {text.split(" (")[0] for text in named} == set(TASK.missing) & set(every)
    assert summary["questions"] == len(TASK.whole) == len(str(summary["correct"]))


def test_only_what_is_named_as_missing_takes_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no data at all, exactly the five checkers that look for it are named, and every other one runs."""
    monkeypatch.setattr(ifbench, "_found", lambda data: False)
    bare = IFBench(1.0, None)
    assert set(bare.missing) == {
        "ratio:stop_words",
        "words:start_verb",
        "words:keywords_specific_position",
        "words:words_position",
        "format:title_case",
    }
    long_enough = "This is a sentence. " * 40
    for prompt in ifbench.load().prompts:
        for i, name in enumerate(prompt.constraints):
            if name in TASK.missing:  # the data is not on this machine: the benchmark's own code fails
                with pytest.raises(LookupError):
                    ifbench.load().kept(prompt, i, long_enough, ifbench.load().strict)
            elif name not in bare.missing:
                ifbench.load().kept(prompt, i, long_enough, ifbench.load().strict)


def test_with_the_data_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifbench, "_found", lambda data: True)
    full = IFBench(1.0, None)
    assert full.missing == {} and full.skipped == [] and len(full.whole) == 294


def test_nothing_is_fetched_and_nothing_stays_patched() -> None:
    import nltk

    before = nltk.download
    TASK.verdict(TASK.asked[0], "x")
    assert nltk.download is before
    import sys

    assert "spacy" not in sys.modules or hasattr(sys.modules["spacy"], "__version__")


def test_a_verdict_is_a_function_of_prompt_and_reply() -> None:
    """One constraint draws its span by the global generator; the same prompt gives the same verdict all the same."""
    import random

    [prompt] = [p for p in TASK.asked if "repeat:repeat_span" in p.constraints and 0 in p.options[0].values()][:1]
    words = dict(prompt.options[0])["prompt_to_repeat"].lower().split()
    spans = [" ".join(words[i : prompt.options[0]["n_end"]]) for i in range(len(words))]
    found = set()
    for seed in range(5):
        random.seed(seed)
        state = random.getstate()
        found.add(tuple(TASK.verdict(prompt, span).strict for span in spans))
        assert random.getstate() == state
    assert len(found) == 1


def test_half_of_it_to_train_on_and_long_prompts_left_out() -> None:
    half = IFBench(0.5, 200)
    assert all(len(p.text) <= 200 for p in half.asked) and half.too_long
    assert {half.draw(Random(i)) for i in range(500)} == set(half.whole) - {item.question for item in half.held_out()}
    with pytest.raises(SelfplayError, match="so none is left for training"):
        TASK.draw(Random(0))
    with pytest.raises(SelfplayError, match="every prompt of IFBench is longer"):
        IFBench(0.5, 3)
    with pytest.raises(SelfplayError, match="requires IFBench; use eval=heldout"):
        InstructionFollowing(TinyWorld(1, 0), 0.0, 1)  # type: ignore[arg-type]
