"""Arithmetic in words: which texts are questions, what they are worth (Python's own arithmetic is the oracle)."""

import re
from collections import Counter
from decimal import Decimal
from random import Random

import pytest

from selfplay.core import SelfplayError
from selfplay.tasks.arithmetic import LEVELS, Arithmetic
from selfplay.tasks.expression import find
from selfplay.tasks.match import exact, last_number, mathematics, number

TASK = Arithmetic(levels=[1, 2, 3, 4, 5], per_level=20, held_out_share=0.125, seed=0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("What is 3+4?", 7),
        ("compute 12 * (3 - 4).", -12),
        ("2+3*4", 14),
        ("10-2-3", 5),
        ("-3+4", 1),
        ("- 3+4", 7),  # a dash of a list
        ("Compute – 3+4", 7),
        ("3 - -4", 7),
        ("1,234 + 5", 1239),
        ("12 × 3 − 4", 32),
        ("3+4 = ?", 7),
        ("Add (1+2)*(3+4), please?", 21),
        ("((((((((1+2))))))))", 3),
        ("999999999999999999*999999999999999999", 999999999999999998000000000000000001),
    ],
)
def test_questions(text: str, value: int) -> None:
    found = find(text)
    assert found is not None and found.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "What is 5?",
        "3+4, 5+6",
        "- 3+4\n- 5+6",
        "3 4",
        "3+4.5",
        "0.5+1",
        "2**3",
        "2(3+4)",
        "(3+4)(5)",
        "Q1: 3+4",
        "3+4=7",
        "3+-+4",
        "2+3+",
        "*2+3",
        "3x4",
        "x3+4",
        "8/2+1",
        "8 ÷ 2 + 1",
        "2^3+1",
        "3+4!",
        "√4+1",
        "5%+1+2",
        "3 < 4+5",
        "3+4 squared",
        "twice 3+4",
        "What is 3+4 minus two?",
        "½+1+2",
        "2²+1+1",
        "٣+4+1",
        "(3+4",
        "3+4)",
        "()",
        "(1+2)(",
        "1e5+1+2",
        "(" * 9 + "1+2" + ")" * 9,
        "9" * 19 + "+1",
        "+".join("1" * 17),
        "1+1" + " " * 1000,
        "1,23+4",
        "3\n+4",
    ],
)
def test_no_questions(text: str) -> None:
    assert find(text) is None


def test_every_question_is_worth_what_python_says() -> None:
    seen = Counter()
    for i in range(3000):
        question = TASK.draw(Random(i))
        item = TASK.item(question)
        [written] = re.findall(r"[0-9(][0-9+*() -]*[0-9)]", question)
        assert item is not None and item.answer == str(eval(written)), question
        digits = max(map(len, re.findall(r"\d+", written)))
        operations = len(re.findall(r"[-+*]", written))
        assert LEVELS[int(item.labels["levels"])] == (digits, operations)
        assert item.labels["operations"] == "".join(sorted(set(re.findall(r"[-+*]", written))))
        seen[item.labels["levels"]] += 1
    assert set(seen) == {"1", "2", "3", "4", "5"} and min(seen.values()) > 500


def test_random_texts_agree_with_python_or_are_no_questions() -> None:
    """Whatever the signs: what `find` accepts, Python reads the same way."""
    accepted = 0
    for i in range(20_000):
        rng = Random(i)
        text = "".join(rng.choice("0123456789+-*() ") for _ in range(rng.randint(3, 12)))
        found = find(text)
        if found is None:
            continue
        accepted += 1
        words = re.sub(r"\b0+(?=\d)", "", re.sub(r"^\s*(-\s+)*", "", text).strip())  # dashes before it are no minus
        assert found.value == _python(words), (text, found)
    assert accepted > 300


def _python(text: str) -> int | None:
    try:
        value = eval(text, {"__builtins__": {}})
    except (SyntaxError, TypeError):
        return None
    return value if isinstance(value, int) else None


def test_an_expression_is_held_out_in_all_its_wordings() -> None:
    held = {find(item.question).text for item in TASK.held_out()}  # type: ignore[union-attr]
    assert len(held) == 100
    for i in range(3000):
        found = find(TASK.draw(Random(f"x{i}")))
        assert found is not None and found.text not in held


def test_beyond_the_levels() -> None:
    item = TASK.item("What is 12345+1?")
    assert item is not None and item.labels["levels"] == "beyond"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("12", 1),
        ("The answer is 12.", 1),
        ("5 + 7 = 12", 1),
        ("= 12", 1),
        ("12.0", 1),
        ("**12**", 1),
        ("$12$", 1),
        ("012", 1),
        ("it is 12, I think", 1),
        ("12!", 1),
        ("twelve", 0),
        ("13", 0),
        ("-12", 0),
        ("12 or 13", 0),
        ("1,2", 0),
        ("12.5", 0),
        ("", 0),
        ("1 2", 0),
        ("12%", 1),
        ("x=−12", 0),
    ],
)
def test_replies(reply: str, right: float) -> None:
    item = TASK.item("What is 5+7?")
    assert item is not None and TASK.correct(item, reply) == right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", "1234.5"),
        ("1,234,567", "1234567"),
        ("12,34", "34"),
        ("-5", "-5"),
        ("x = -5", "-5"),
        ("10-5", "5"),
        ("(−3)", "-3"),
        ("a-7", "7"),
        (".5", "0.5"),
        ("3.", "3"),
        ("$1,200", "1200"),
        ("none", None),
        ("٣", None),
    ],
)
def test_the_last_number(text: str, value: str | None) -> None:
    assert last_number(text) == (None if value is None else Decimal(value))


def test_matching() -> None:
    assert exact("  The  Answer.", "the answer") == 1.0 and exact("answer the", "the answer") == 0.0
    assert number("so 1,000", "$1000.00") == 1.0 and number("nothing", "7") == 0.0
    with pytest.raises(SelfplayError, match="contains no number"):
        number("7", "seven")


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("\\frac{1}{2}", "so \\boxed{\\frac12}", 1),
        ("\\frac{1}{2}", "0.5", 1),
        ("1/2", "It is $\\frac{1}{2}$.", 1),
        ("42", "I get 41, then 42", 1),
        ("x^2+1", "$1+x^2$", 1),
        ("(1,2)", "\\boxed{(1,2)}", 1),
        ("\\sqrt{2}", "\\boxed{1.414}", 0),
        ("42", "41", 0),
        ("42", "", 0),
    ],
)
def test_mathematics(answer: str, reply: str, right: float) -> None:
    assert mathematics(reply, answer) == right


def test_mathematics_says_when_the_right_answer_is_none() -> None:
    with pytest.raises(SelfplayError, match="cannot parse the reference answer ''"):
        mathematics("1", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0]}, r"task.levels is \[0\]"),
        ({"levels": []}, "task.levels is"),
        ({"levels": [1], "per_level": 1000}, "level 1 seems to have only"),
        ({"per_level": 0}, "task.per_level is 0"),
        ({"held_out_share": 1.0}, "training or evaluation has no questions"),
        ({"held_out_share": 2.0}, "a number from 0 to 1"),
    ],
)
def test_mistakes(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SelfplayError, match=message):
        Arithmetic(**{"levels": [1], "per_level": 2, "held_out_share": 0.125, "seed": 0, **changes})  # type: ignore[arg-type]
