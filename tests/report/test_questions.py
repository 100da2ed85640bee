"""What the Challenger asks, and the gap between reward and truth, on questions and figures made by hand."""

from math import isnan, nan
from pathlib import Path
from random import Random

import cli
import pandas as pd
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from selfplay.core import SelfplayError
from selfplay.report.questions import asked, distinct, goodhart, ngrams, self_bleu, words
from selfplay.runs import load
from selfplay.runs.sweep import Sweep
from selfplay.tasks.tiny_world import draw, parse


def turns(*questions: tuple[int, str], run: str = "r", **columns: object) -> pd.DataFrame:
    rows = [{"run": run, "setting": "s", "seed": 1, "step": step, "reply": text} for step, text in questions]
    return pd.DataFrame(rows).assign(role="challenger", **columns)


def metrics(run: str, **columns: list[float]) -> pd.DataFrame:
    named = {"reward": "solver/reward", "truth": "solver/truth", "spread": "solver/reward_std"}
    table = pd.DataFrame({named.get(name, name): values for name, values in columns.items()})
    table.insert(0, "run", run)
    return table.assign(setting="s", seed=1, step=range(1, len(table) + 1), tokens=0.0)


def swept(*tables: pd.DataFrame) -> Sweep:
    return Sweep(pd.DataFrame(), pd.concat(tables, ignore_index=True), {})


# --- measures of text -------------------------------------------------------------------------------------------------


def test_words_are_words_numbers_and_marks() -> None:
    assert words("what is 4+15?") == ["what", "is", "4", "+", "15", "?"]
    assert ngrams(list("abab"), 2) == {("a", "b"): 2, ("b", "a"): 1} and not ngrams(["a"], 2)


def test_distinct_worked_by_hand() -> None:
    sentences = [["a", "b", "a"], ["a", "b"]]
    assert distinct(sentences, 1) == 2 / 5 and distinct(sentences, 2) == 2 / 3
    assert isnan(distinct([["a"]], 2))


def nltk_self_bleu(sentences: list[list[str]]) -> float:
    smooth = SmoothingFunction().method1
    scores = [
        sentence_bleu([*sentences[:i], *sentences[i + 1 :]], s, smoothing_function=smooth, auto_reweigh=True)
        for i, s in enumerate(sentences)
    ]
    return float(sum(scores) / len(scores))


def test_self_bleu_is_nltks() -> None:
    rng = Random(0)
    of_the_world = [words(draw(rng).text) for _ in range(30)]
    assert self_bleu(of_the_world) == pytest.approx(nltk_self_bleu(of_the_world), rel=1e-12)
    for trial in range(60):  # words said again and again, sentences of all lengths, none of which empty, copies
        some = [[rng.choice("abcd") for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(2, 7))]
        some += some[: trial % 3]
        assert self_bleu(some) == pytest.approx(nltk_self_bleu(some), rel=1e-12), some


def test_self_bleu_from_one_question_to_all_different() -> None:
    assert self_bleu([["sort", "abc"]] * 5) == pytest.approx(1.0)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0.0
    assert self_bleu([[], ["a"]]) == 0.0 and isnan(self_bleu([["a"]]))


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_questions_by_family_level_and_bin() -> None:
    said = [(1, "what is 4+5?"), (1, "sort dcba"), (2, "hello"), (2, "what is 4+5?"), (3, "add 12 and 34"), (4, "oops")]
    first, second = asked(turns(*said), bins=2).to_dict("records")
    assert (first["run"], first["setting"], first["seed"]) == ("r", "s", 1)
    assert [(row["first"], row["last"], row["questions"]) for row in (first, second)] == [(1, 2, 4), (3, 4, 2)]
    assert first["valid"] == 0.75 and second["valid"] == 0.5
    shares = {"add": 0.5, "sort": 0.25, "other": 0.25}
    assert {k: v for k, v in first.items() if k.startswith("family/") and v} == {
        f"family/{k}": v for k, v in shares.items()
    }
    assert {k: v for k, v in first.items() if k.startswith("level/") and v} == {
        "level/1": 0.5,
        "level/2": 0.25,
        "level/other": 0.25,
    }
    assert second["level/3"] == 0.5 and parse("add 12 and 34") is not None
    assert first["unique"] == 0.75 and second["unique"] == 1.0
    assert first["sampled"] == 4 and first["distinct_1"] == distinct([words(t) for _, t in said[:4]], 1)


def test_bins_are_of_equal_length_and_common_to_all_runs() -> None:
    long, short = turns(*((step, "a") for step in range(1, 11))), turns((7, "a"), run="short")
    found = asked(pd.concat([long, short]), bins=3)
    assert list(zip(found["run"], found["first"], found["last"], found["questions"], strict=True)) == [
        ("r", 1, 4, 4),
        ("r", 5, 7, 3),
        ("r", 8, 10, 3),
        ("short", 5, 7, 1),
    ]
    assert len(asked(long, bins=50)) == 10, "never more bins than steps"


def test_validity_is_the_referees_where_there_is_one() -> None:
    other_world = turns((1, "who?"), (1, "why?"), **{"score/invalid": [0.0, 1.0]})
    assert asked(other_world)["valid"].tolist() == [0.5]
    unscored = turns((1, "who?"), (1, "sort dcba"), **{"score/invalid": nan})
    assert asked(unscored)["valid"].tolist() == [0.5] and asked(unscored)["family/sort"].tolist() == [0.5]


def test_diversity_is_of_a_sample_that_is_always_the_same() -> None:
    rng = Random(1)
    many = turns(*((1, draw(rng).text) for _ in range(400)))
    first, again = asked(many, sample=50), asked(many, sample=50)
    assert first.equals(again) and first["sampled"].tolist() == [50] and first["questions"].tolist() == [400]
    assert first["self_bleu"][0] == pytest.approx(asked(many, sample=400)["self_bleu"][0], abs=0.15)
    one_tune = asked(turns(*((1, "sort dcba") for _ in range(400))), sample=50)
    assert one_tune["self_bleu"][0] == pytest.approx(1.0) and one_tune["distinct_1"][0] == 2 / 100


def test_who_asks_can_be_chosen_and_nobody_is_no_error() -> None:
    table = pd.concat([turns((1, "sort dcba")), turns((1, "hello"), (1, "sort dcba")).assign(role="chance")])
    assert asked(table)["questions"].tolist() == [1] and asked(table, role="chance")["valid"].tolist() == [0.5]
    assert len(asked(table, role="judge")) == 0 and "run" in asked(table, role="judge")
    with pytest.raises(SelfplayError, match="bins is 0"):
        asked(table, bins=0)


# --- reward and truth -------------------------------------------------------------------------------------------------


def test_the_gap_worked_by_hand() -> None:
    """At first reward 1 with spread 2, truth 0.5 and so with unit 0.5: then +4 is 2 units, and −0.25 is −0.5."""
    table = metrics("r", reward=[1.0, 3.0, 5.0], truth=[0.5, 0.75, 0.25], spread=[2.0, 9.0, 9.0])
    found = goodhart(swept(table), initial=1)
    assert found["reward_change"].tolist() == [0.0, 1.0, 2.0] and found["truth_change"].tolist() == [0.0, 0.5, -0.5]
    assert found["gap"].tolist() == [0.0, 0.5, 2.5]
    assert found["reward"].tolist() == [1.0, 3.0, 5.0] and found["kl"].isna().all() and found["accuracy"].isna().all()


def test_the_units_are_those_of_all_answers_of_the_initial_steps() -> None:
    """Two steps with means 0 and 2 and spreads 1 and 1: the variance of all their answers is 1 + 1."""
    table = metrics("r", reward=[0.0, 2.0, 5.0], truth=[0.1, 0.3, 0.6], spread=[1.0, 1.0, 4.0])
    found = goodhart(swept(table), initial=2)
    assert found["reward_change"].tolist() == pytest.approx([-1 / 2**0.5, 1 / 2**0.5, 4 / 2**0.5])
    assert found["truth_change"].tolist() == pytest.approx([-0.25, 0.25, 1.0])  # p = 0.2, unit 0.4


def test_each_run_has_its_own_beginning_and_runs_without_truth_no_rows() -> None:
    tables = [
        metrics("a", reward=[1.0, 2.0], truth=[0.5, 0.5], spread=[1.0, 1.0]),
        metrics("b", reward=[7.0, 9.0], truth=[0.5, 0.5], spread=[1.0, 1.0]),
        metrics("c", reward=[7.0, 9.0], spread=[1.0, 1.0]),
    ]
    found = goodhart(swept(*tables), initial=1)
    assert found["run"].tolist() == ["a", "a", "b", "b"] and found["gap"].tolist() == [0.0, 1.0, 0.0, 2.0]
    assert len(goodhart(swept(tables[2]))) == 0 and "gap" in goodhart(swept(tables[2]))


def test_there_is_no_gap_without_a_unit() -> None:
    never = goodhart(swept(metrics("r", reward=[1.0, 2.0], truth=[0.0, 0.5], spread=[1.0, 1.0])), initial=1)
    assert never["gap"].isna().all() and never["truth_change"].isna().all() and never["reward_change"].notna().all()


def test_a_real_run_that_is_paid_the_truth_has_no_gap(tmp_path: Path) -> None:
    sizes = ("episodes=4", "steps=2", "task.per_cell=1", "game.answers=4", "player.max_tokens=24")
    cli.finished(tmp_path / "run", "game=dataset", "update=grpo", "reward=verifier", *sizes)
    loaded = load(tmp_path / "run")
    found = goodhart(loaded)
    assert found["step"].tolist() == [1, 2] and found["gap"].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found["reward_change"].notna().all() and found["kl"].notna().all()
    assert found["accuracy"].notna().tolist() == [False, True] and found["tokens"][1] > found["tokens"][0] > 0
    nature = asked(loaded.turns, bins=1, role="chance")
    assert nature["questions"].tolist() == [8] and nature["valid"].tolist() == [1.0]
    assert len(asked(loaded.turns)) == 0
