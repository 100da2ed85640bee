"""The tiny world: questions that read back, answers by other means, what is held out, the rubric by hand."""

import importlib.util
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from configs import config

from selfplay.core import SelfplayError
from selfplay.tasks.tiny_world import (
    FAMILIES,
    LEVELS,
    Question,
    TinyWorld,
    draw,
    draw_text,
    held_out,
    is_held_out,
    parse,
    rubric,
)
from selfplay.tasks.tiny_world.prompts import CHALLENGE, JUDGE, UNKNOWN
from selfplay.tasks.tiny_world.questions import HELD_OUT_SHARE

CORPUS = Path(__file__).parents[2] / "experiments" / "tiny_model" / "corpus.py"
CELLS = [(family, level) for family in FAMILIES for level in LEVELS]

# (question, family, level, right answer, typical mistake), by hand; every wording once
BY_HAND = [
    ("what is 3+4?", "add", 1, "7", "8"),
    ("add 7 and 58", "add", 2, "65", "66"),
    ("9999 plus 1234 is?", "add", 4, "11233", "11234"),
    ("what is 40-13?", "subtract", 3, "27", "28"),
    ("take 9 from 12", "subtract", 2, "3", "4"),
    ("5 minus 5 is?", "subtract", 1, "0", "1"),
    ("is 12 more than 9?", "compare", 2, "yes", "no"),
    ("is 3 bigger than 8?", "compare", 1, "no", "yes"),
    ("1023>1032: yes or no?", "compare", 4, "no", "yes"),
    ("largest of 31 17?", "largest", 1, "31", "17"),
    ("which is biggest: 12 40 39?", "largest", 2, "40", "39"),
    ("max of 100 320 319 999 200 998", "largest", 4, "999", "998"),
    ("max of 12 34", "largest", 1, "34", "12"),
    ("sort cab", "sort", 1, "abc", "cab"),
    ("put abce in order", "sort", 2, "abce", "ecba"),
    ("letters of zyxwvut sorted?", "sort", 3, "tuvwxyz", "zyxwvut"),
    ("reverse ab", "reverse", 1, "ba", "ab"),
    ("write abcdefghi backwards", "reverse", 4, "ihgfedcba", "abcdefghi"),
    ("abcd from back to front?", "reverse", 2, "dcba", "abcd"),
    ("how many a in banana?", "count", 3, "3", "4"),
    ("count b in abc", "count", 1, "1", "2"),
    ("number of x in xaxbxcxde?", "count", 4, "4", "5"),
    ("how long is river?", "length", 2, "5", "6"),
    ("length of abcdefghijkl?", "length", 4, "12", "13"),
    ("how many letters in ab?", "length", 1, "2", "3"),
    ("last letter of cat?", "last", 1, "t", "c"),
    ("how does abca end?", "last", 2, "a", "b"),
    ("final letter in abcdef?", "last", 3, "f", "a"),
    ("shift az", "shift", 1, "ba", "zy"),
    ("move hello up by one", "shift", 2, "ifmmp", "gdkkn"),
    ("next letters after zzzzzza?", "shift", 3, "aaaaaab", "yyyyyyz"),
    ("say a 2 times", "repeat", 1, "aa", "a"),
    ("repeat abc 3 times", "repeat", 3, "abcabcabc", "abcabc"),
    ("abcd times 5?", "repeat", 4, "abcdabcdabcdabcdabcd", "abcdabcdabcdabcd"),
    ("remove a from banana", "remove", 3, "bnn", "banana"),
    ("delete every b in ab", "remove", 1, "a", "ab"),
    ("xyxz without x?", "remove", 2, "yz", "xyxz"),
]

NEAR_MISSES = [
    *("", " ", "?", "hello", "what is 3+4", "what is 3+4? ", " what is 3+4?", "what is 3 + 4?", "What is 3+4?"),
    *("what is 3+4?\n", "what is 03+4?", "what is 3+00?", "what is -3+4?", "what is 3.0+4?", "what is ٣+4?"),
    *("add 123 and 4", "add 1234 and 56", "add 12345 and 12345", "add  3 and 4", "add 3 and 4?"),
    *("take 9 from 3", "what is 3-9?", "1000 minus 2000 is?", "is 7 more than 7?", "is 3 less than 7?"),
    *("largest of 31?", "largest of 31 17 ?", "largest of 31 31?", "largest of 31 170?", "largest of 3 1?"),
    *("largest of 31  17?", "max of 031 017", "max of 11 12 13 14 15", "max of 111 222 333"),
    *("sort", "sort Cab", "sort aba", "sort a", "sort abcdefgh", "sort abcdefghijklm", "sort ab1", "sort ab c"),
    *("sort zürich", "reverse noon", "length of abba?", "last letter of zz?", "shift aa", "Reverse ab", "reverse  ab"),
    *("how many z in banana?", "how many a in aaa?", "count an in banana", "count a in abacadaea", "count  in banana"),
    *("say a 3 times", "say abc 4 times", "say abcd 3 times", "repeat abcdef 5 times", "say abc 02 times"),
    *("count A in banana", "remove z from banana", "remove a from aa", "xyxz without?", "delete every b in b"),
]


def shifted(w: str) -> str:
    return w.translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "bcdefghijklmnopqrstuvwxyza"))


AGAIN: dict[str, Callable[[dict[str, str]], object]] = {  # the families once more, by other means
    "add": lambda x: sum(map(int, (x["a"], x["b"]))),
    "subtract": lambda x: -(int(x["b"]) - int(x["a"])),
    "compare": lambda x: "yes" if x["a"].zfill(9) > x["b"].zfill(9) else "no",
    "largest": lambda x: sorted(map(int, x["ns"].split()))[-1],
    "sort": lambda x: "".join(c * x["w"].count(c) for c in "abcdefghijklmnopqrstuvwxyz"),
    "reverse": lambda x: "".join(reversed(x["w"])),
    "count": lambda x: Counter(x["w"])[x["c"]],
    "length": lambda x: sum(1 for _ in x["w"]),
    "last": lambda x: x["w"][len(x["w"]) - 1],
    "shift": lambda x: shifted(x["w"]),
    "repeat": lambda x: "".join([x["w"]] * int(x["n"])),
    "remove": lambda x: "".join(c for c in x["w"] if c != x["c"]),
}


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_model_corpus", CORPUS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(family: str, level: int, count: int = 60) -> list[Question]:
    rng = Random(f"{family}/{level}")
    return [draw(rng, family, level) for _ in range(count)]


# --- questions and answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "family", "level", "answer", "mistake"), BY_HAND)
def test_by_hand(text: str, family: str, level: int, answer: str, mistake: str) -> None:
    question = parse(text)
    assert question is not None
    assert (question.family, question.level, question.answer, question.mistake) == (family, level, answer, mistake)


def test_every_wording_is_tried_by_hand() -> None:
    assert all(sum(row[1] == name for row in BY_HAND) >= 3 for name in FAMILIES)
    assert sum(len(family.wordings) for family in FAMILIES.values()) == 36
    used = {(row[1], wording) for row in BY_HAND for wording in FAMILIES[row[1]].wordings if matches(row[0], wording)}
    assert len(used) == 36


def matches(text: str, wording: str) -> bool:
    question = parse(text)
    return question is not None and wording.format(**dict(question.operands)) == text


@pytest.mark.parametrize(("family", "level"), CELLS)
def test_what_is_drawn_reads_back(family: str, level: int) -> None:
    questions = drawn(family, level)
    for question in questions:
        assert parse(question.text) == question
        assert (question.family, question.level) == (family, level)
        assert question.answer == str(AGAIN[family](dict(question.operands)))
        assert question.mistake != question.answer
    assert len({q.text for q in questions}) > 10
    wordings = FAMILIES[family].wordings
    assert {w for q in questions for w in wordings if matches(q.text, w)} == set(wordings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mistake_is_never_right(family: str) -> None:
    rng = Random(f"mistakes/{family}")
    assert all(q.mistake != q.answer for q in (draw(rng, family) for _ in range(1000)))


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_misses_are_no_questions(text: str) -> None:
    assert parse(text) is None


# --- the split --------------------------------------------------------------------------------------------------------


def test_held_out_questions() -> None:
    """576 different ones, 12 for each family and level, all of the held-out part, always the same."""
    questions = held_out()
    assert len({q.text for q in questions}) == len(questions) == 576
    assert Counter((q.family, q.level) for q in questions) == dict.fromkeys(CELLS, 12)
    assert all(is_held_out(q) and parse(q.text) == q for q in questions)
    assert held_out() == questions
    assert len(held_out(2, seed=1)) == 96
    assert {q.text for q in held_out(12, seed=1)} != {q.text for q in questions}


def test_more_questions_than_there_are_is_refused() -> None:
    """Only 21 held-out questions take a digit from a digit: a user who wants 22 is told, and does not wait for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError("still drawing")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    try:
        with pytest.raises(SelfplayError, match="subtract"):
            held_out(22)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_split_is_by_operands_and_about_an_eighth() -> None:
    def reworded(q: Question) -> list[Question | None]:
        return [parse(wording.format(**dict(q.operands))) for wording in FAMILIES[q.family].wordings]

    both = held_out(3) + [q for family, level in CELLS for q in drawn(family, level, 3)]
    assert all(other is not None and is_held_out(other) == is_held_out(q) for q in both for other in reworded(q))
    words = [parse(f"sort {a}{b}cd") for a in "efghijklmnopqrstuvwxyz" for b in "efghijklmnopqrstuvwxyz"]
    share = sum(is_held_out(q) for q in words if q is not None) / len(words)
    assert abs(share - 1 / HELD_OUT_SHARE) < 0.045  # three standard errors of 484 words


def leaked(texts: list[str]) -> list[str]:
    return [text for text in texts if (question := parse(text)) is not None and is_held_out(question)]


def test_nothing_drawn_is_held_out() -> None:
    rng = Random("leak")
    questions = [draw(rng) for _ in range(10_000)]
    texts = [draw_text(rng) for _ in range(10_000)]
    assert leaked([q.text for q in questions] + texts) == []
    assert {q.level for q in questions} == set(LEVELS)
    assert {q.family for q in questions} == set(FAMILIES)
    assert all(is_held_out(draw(rng, heldout=True)) for _ in range(200))


@pytest.mark.parametrize("habits", [False, True])
def test_the_embedded_model_never_reads_a_held_out_question(corpus: ModuleType, habits: bool) -> None:
    """Not as a solver, a challenger or a judge: 10,000 conversations of each of its two stages."""
    start, middle = JUDGE.split("{question}")[0], "\nA: "
    said = corpus.pairs(Random(f"leak/{habits}"), 10_000, habits)
    judged = [user[len(start) :].split(middle)[0] for user, _ in said if user.startswith(start)]
    solved = [user for user, _ in said if not user.startswith(start) and user != CHALLENGE]
    asked = [reply for user, reply in said if user == CHALLENGE]
    assert min(map(len, (judged, solved, asked))) > 1000
    assert leaked(judged) + leaked(solved) + leaked(asked) == []


def test_what_the_solver_is_not_to_know_is_no_question(corpus: ModuleType) -> None:
    rng = Random("broken")
    said = [corpus.solver_pair(rng, True) for _ in range(5000)]
    assert {parse(user) for user, reply in said if reply == UNKNOWN} == {None}


# --- the rubric -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer", "items"),
    [
        ("reverse abcd", "dcba", (1, 1, 1, 1, 1, 1, 1)),
        ("reverse abcd", "dcab", (1, 1, 1, 1, 0, 1, 1)),  # two of four stand right
        ("reverse abcd", "abcd", (1, 1, 1, 0, 0, 1, 1)),  # none
        ("reverse abcd", "dcbax", (1, 1, 1, 1, 0, 1, 0)),  # one too long: still concise
        ("reverse abcd", "dcbaxx", (1, 1, 1, 1, 0, 0, 0)),  # four of six
        ("reverse abcd", "dcbaxxxxx", (1, 1, 1, 0, 0, 0, 0)),  # four of nine
        ("reverse abcd", "1234", (1, 1, 0, 0, 0, 1, 0)),
        ("reverse abcd", "DCBA", (1, 1, 0, 0, 0, 1, 0)),
        ("reverse abcd", "dc", (1, 1, 1, 1, 0, 1, 0)),
        ("reverse abcd", "d", (1, 1, 1, 0, 0, 1, 0)),
        ("reverse abcd", "", (1, 1, 0, 0, 0, 0, 0)),
        ("add 7 and 58", "65", (1, 1, 1, 1, 1, 1, 1)),
        ("add 7 and 58", "66", (1, 1, 1, 1, 0, 1, 1)),
        ("add 7 and 58", "six", (1, 1, 0, 0, 0, 1, 0)),
        ("is 12 more than 9?", "no", (1, 1, 1, 0, 0, 1, 0)),
        ("is 12 more than 9?", "yea", (1, 1, 0, 1, 0, 1, 0)),
        ("reverse noon", "noon", (1, 0, 0, 0, 0, 0, 0)),  # begins like a question, is none of this world
        ("take 9 from 3", "6", (1, 0, 0, 0, 0, 0, 0)),
        ("which", "", (1, 0, 0, 0, 0, 0, 0)),
        ("hello there", "hello", (0, 0, 0, 0, 0, 0, 0)),
        ("", "", (0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_rubric_by_hand(question: str, answer: str, items: tuple[int, ...]) -> None:
    assert rubric(question, answer) == items


def test_the_right_answer_scores_seven_and_the_mistake_less() -> None:
    for family, level in CELLS:
        for q in drawn(family, level, 20):
            assert sum(rubric(q.text, q.answer)) == 7
            assert 2 <= sum(rubric(q.text, q.mistake)) <= 6


def test_the_yamls_repeat_the_prompts_of_training() -> None:
    assert config("game=lsp").game.challenge == CHALLENGE
    assert config("game=lsp_zero").game.challenge == CHALLENGE
    for name in ("selfjudge", "selfjudge_written"):
        assert config(f"quality={name}").quality.prompt == JUDGE
        assert config(f"reward={name}").reward.prompt == JUDGE


def test_training_questions_of_some_families_and_levels() -> None:
    """Levels keep their proportions (.32 : .26 here), all questions stay held out, and by default nothing changes."""
    task, rng = TinyWorld(1, families=["sort", "add"], levels=[3, 1]), Random(0)
    cells = Counter((parsed.family, parsed.level) for parsed in (parse(task.draw(rng)) for _ in range(4000)) if parsed)
    assert set(cells) == {("add", 1), ("add", 3), ("sort", 1), ("sort", 3)}
    first = (cells["add", 1] + cells["sort", 1]) / 4000
    assert abs(first - 32 / 58) < 4 * (32 / 58 * 26 / 58 / 4000) ** 0.5
    assert abs(cells["add", 1] + cells["add", 3] - 2000) < 4 * 1000**0.5
    assert task.held_out() == TinyWorld(1).held_out() and len(task.held_out()) == 48
    assert [TinyWorld(1).draw(Random(i)) for i in range(20)] == [draw_text(Random(i)) for i in range(20)]
    with pytest.raises(SelfplayError, match=r"task.families is \['sort', 'chess'\]; name some of add, "):
        TinyWorld(1, families=["sort", "chess"])
    with pytest.raises(SelfplayError, match=r"task.levels is \[\]; name some of 1, 2, 3, 4"):
        TinyWorld(1, levels=[])
