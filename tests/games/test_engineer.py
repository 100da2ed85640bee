"""LANCE's data engineering: the branches and their counts, the filter of new questions, reviews, and what is learnt."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import cli
import pytest
from scripted import Script

from selfplay.core import Ask, Episode, Reply
from selfplay.games.engineer import Engineer
from selfplay.rollout import play, score_and_pay

PROMPTS = {"review": "Q {question} A {answer}", "spoil": "worse: {question}", "ask": "like {question}"}
QUESTIONS = ("sort the letters of cab", "take two from nine please")


def played(said: Mapping[str, Sequence[str]], reviews: Mapping[str, Sequence[str]], **options: object) -> Episode:
    """An episode in which roles say their lines in order, and a review depends on what is reviewed."""
    game = Engineer(**{**PROMPTS, "new": 2, "answers": 2, "reviews": 2, **options})  # type: ignore[arg-type]
    lines = {role: iter(texts) for role, texts in {"chance": QUESTIONS, **said}.items()}
    left = {pair: iter(texts) for pair, texts in reviews.items()}

    def say(ask: Ask) -> Reply:
        return Reply(next(left[ask.prompt] if ask.role == "reviewer" else lines[ask.role]))

    [episode] = play(game, {role: Script(say) for role in game.roles}, [0], key="0")
    score_and_pay(game, [episode], {}, {})
    return episode


def solver(episode: Episode) -> list[tuple[str, str, float]]:
    """Of each turn of the Solver: the question that it is learnt behind, the answer, what it earns."""
    turns = [turn for turn in episode.turns if turn.ask.role == "solver"]
    return [((t.ask.learnt_prompt or t.ask.messages)[0]["content"], t.reply.text, t.payoff) for t in turns]


def test_above_the_threshold_worse_answers_are_written() -> None:
    """Reviews 8 and 7 of the answer: 7.5 > 7. Two worse answers, learnt behind the question, in the same group."""
    q = QUESTIONS[0]
    reviews = {
        f"Q {q} A abc": ("8", "Score: 7"),
        f"Q {q} A cba": ("3", "4"),
        f"Q {q} A bac": ("none", "2.5 of 10; 2.5"),
    }
    episode = played({"solver": ("abc", "cba", "bac")}, reviews)
    assert solver(episode) == [(q, "abc", 7.5), (q, "cba", 3.5), (q, "bac", 2.5)]
    turns = [turn for turn in episode.turns if turn.ask.role == "solver"]
    assert {turn.ask.group for turn in turns} == {q} and turns[1].ask.prompt == f"worse: {q}"
    assert Counter(turn.ask.role for turn in episode.turns) == {"chance": 2, "solver": 3, "reviewer": 6}
    assert all(turn.payoff == 0 for turn in episode.turns if turn.ask.role != "solver")


def test_at_the_threshold_new_questions_are_written_filtered_and_answered() -> None:
    """7 is not above 7. Of three new questions one repeats the first, one is too short; the other gets two answers."""
    q, new = QUESTIONS[0], "count all vowels in banana now"
    reviews = {f"Q {q} A abc": ("7", "7"), f"Q {new} A 3": ("9", "9"), f"Q {new} A 4": ("1", "no")}
    said = {"solver": ("abc", "3", "4"), "asker": ("sort the letters of bca", "why", new)}
    episode = played(said, reviews, new=3)
    assert solver(episode) == [(q, "abc", 7.0), (new, "3", 9.0), (new, "4", 1.0)]
    assert Counter(turn.ask.role for turn in episode.turns) == {"chance": 2, "solver": 3, "reviewer": 6, "asker": 3}
    groups = [turn.ask.group for turn in episode.turns if turn.ask.role == "solver"]
    assert groups == [q, new, new]


def test_without_a_readable_review_an_answer_is_worth_nothing_and_nothing_may_be_left() -> None:
    q = QUESTIONS[0]
    episode = played({"solver": ("abc",), "asker": ("why", q)}, {f"Q {q} A abc": ("good", "")})
    assert solver(episode) == [(q, "abc", 0.0)] and len(episode.turns) == 2 + 1 + 2 + 2


def test_the_filter_keeps_siblings_apart() -> None:
    """ROUGE-L above 0.7 to the original or to a kept sibling: 4 of 5 words in order are 0.8, 3 of 5 are 0.6."""
    game = Engineer(**PROMPTS)  # type: ignore[arg-type]
    first, near, far, sibling = "a b c d e", "a b c d x", "a b c y x", "a b z y x"
    assert game.kept([first, near]) == [] and game.kept([first, far]) == [far]
    assert game.kept([first, far, "a b c y w", sibling]) == [far], "4 and 3 + 1 of 5 words are those of a sibling"
    assert game.kept([first, "a b c", "v w x y z", "v w x y z"]) == ["v w x y z"]


def test_placeholders_in_texts_are_not_expanded() -> None:
    q = QUESTIONS[0]
    reviews = {f"Q {q} A {{question}}": ("9", "9"), f"Q {q} A x": ("1", "1"), f"Q {q} A y": ("1", "1")}
    assert solver(played({"solver": ("{question}", "x", "y")}, reviews))[0] == (q, "{question}", 9.0)


@pytest.mark.parametrize("threshold", [-1, 7])
def test_a_run_learns_in_rounds(threshold: int, tmp_path: Path) -> None:
    """Both branches with the embedded model; worse answers are learnt behind the question that they do not answer."""
    small = ("eval=none", "steps=2", "episodes=4", "game.new=2", "game.answers=2", "update.hoard=2", "update.room=2")
    run = cli.finished(tmp_path / "run", "game=engineer", f"game.threshold={threshold}", *small, "update.fits=1")
    turns = cli.lines(run / "episodes.jsonl")
    roles = Counter(turn["role"] for turn in turns)
    assert roles["solver"] == 8 * 3 if threshold == -1 else roles["asker"] == 16
    assert roles["reviewer"] == 3 * roles["solver"]
    assert {"sft/kept", "preferences/pairs"} <= set(cli.metrics(run)[-1])
