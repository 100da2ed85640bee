"""The ladder: exact answers, the typical mistakes, levels, and held-out questions."""

from collections import Counter
from itertools import product
from random import Random

import pytest

from selfplay.core import SelfplayError
from selfplay.tasks.ladder import HIGHEST, OPERATIONS, Ladder, question, steps


@pytest.mark.parametrize(
    "text, trace",
    [
        ("r cab", "bac"),
        ("u azy", "baz"),
        ("d baz", "azy"),
        ("s cab", "abc"),
        ("l abc", "bca"),
        ("x abc", "bac"),
        ("rus cab", "bac cbd bcd"),
        ("llll abc", "bca cab abc bca"),
    ],
)
def test_answers_by_hand(text: str, trace: str) -> None:
    task = Ladder(per_level=1)
    item = task.item(text)
    assert item is not None and item.demonstration == trace and item.answer == trace.split()[-1]
    assert item.labels == {"levels": str(len(text.split()[0]))}
    assert task.correct(item, trace) == 1.0 and task.correct(item, item.answer) == 1.0, "the last word counts"
    assert task.correct(item, trace + "a") == task.correct(item, trace + " ") == task.correct(item, "") == 0.0


def test_mistakes_by_hand() -> None:
    """Each operation's mistake on "cab", then the next operation goes on from there."""
    made = {operation: steps(operation, "cab", lambda: True)[0] for operation in OPERATIONS}
    assert made == {"r": "cab", "u": "bza", "d": "dbc", "s": "cba", "l": "bca", "x": "cba"}
    turns = iter([False, True, False])
    assert steps("rus", "cab", lambda: next(turns)) == ["bac", "azb", "abz"]
    different = [steps(o, w, lambda: True) != steps(o, w) for o, w in product(OPERATIONS, ("cab", "qws", "mnp"))]
    assert all(different)


@pytest.mark.parametrize(
    "text", ["", "?", "r", "r ab", "r abcd", "y abc", "r  abc", " r abc", "r abc ", "R abc", "r" * 13 + " abc"]
)
def test_other_texts_are_no_questions(text: str) -> None:
    task = Ladder(per_level=1)
    assert task.item(text) is None and not task.holds_out(text)


def test_training_and_held_out_questions_never_meet() -> None:
    task, rng = Ladder(top=3, per_level=20), Random(0)
    held = task.held_out()
    assert Counter(item.labels["levels"] for item in held) == {"1": 20, "2": 20, "3": 20}
    assert len({item.question for item in held}) == len(held) and all(task.holds_out(item.question) for item in held)
    drawn = [task.draw(rng) for _ in range(3000)]
    assert not any(task.holds_out(text) for text in drawn)
    levels = Counter(len(text.split()[0]) for text in drawn)
    assert set(levels) == {1, 2, 3} and min(levels.values()) > 870  # of 1000 expected, deviation 26
    assert Ladder(top=3, per_level=20, seed=1).held_out() != held
    share = sum(task.holds_out(question(rng, 5, heldout=bool(i % 2))) for i in range(40))
    assert share == 20


def test_levels_of_the_training_questions() -> None:
    task, rng = Ladder(levels=[2, HIGHEST], per_level=1), Random(0)
    assert {len(task.draw(rng).split()[0]) for _ in range(100)} == {2, HIGHEST}
    assert {item.labels["levels"] for item in task.held_out()} == {str(level) for level in range(1, 9)}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top": 13}, "task.top is 13 .* has the levels 1 to 12"),
        ({"top": 13, "levels": [1], "per_level": 1}, "task.top is 13"),
        ({"levels": [0], "per_level": 1}, r"task.levels \[0\]"),
        ({"levels": [], "per_level": 1}, r"task.levels \[\]"),
        ({"per_level": 20_000, "top": 1}, "task.per_level is 20000, but level 1 seems to have only"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.tasks.ladder.DRAWS_PER_QUESTION", 1)
    with pytest.raises(SelfplayError, match=message):
        Ladder(**options)  # type: ignore[arg-type]
