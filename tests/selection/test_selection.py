"""Nature with a strategy: what it draws, what it keeps, what it refuses."""

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import cli
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from selfplay.core import Ask, Reply, SelfplayError
from selfplay.selection.selection import Selection

FEW = ("task.per_cell=1", "episodes=3", "player.max_tokens=32", "eval=none", "players.nature.size=24")
TAUGHT = ("game=demonstrations", "game.answers=0", "~seats.solver", "reward=none")


def selection(weights: Any = None, count: int = 4, **options: Any) -> Selection:
    def strategy(pool: Any) -> Tensor:
        return weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float32)

    draw = lambda rng: f"question {rng.randrange(count)}"  # noqa: E731
    return Selection(draw, count, **({} if weights is None else {"strategy": strategy}), **options)


def drawn(nature: Selection, draws: int) -> list[str]:
    return [reply.text for reply in nature.act([Ask("chance", key=f"draw/{i}") for i in range(draws)])]


def test_draws_follow_the_weights() -> None:
    """4,000 fixed keys, and so a fixed p."""
    nature = selection([1.0, 0.0, 2.0, 5.0])
    nature.before(1, {})
    counts = Counter(drawn(nature, 4000))
    assert counts[nature.pool.questions[1]] == 0
    observed = [counts[nature.pool.questions[i]] for i in (0, 2, 3)]
    assert chisquare(observed, [500, 1000, 2500]).pvalue > 0.01
    even = Counter(drawn(selection(), 4000))
    assert chisquare(list(even.values()), [1000] * 4).pvalue > 0.01


def test_a_draw_depends_on_its_key_alone() -> None:
    nature = selection([1.0, 0.0, 2.0, 5.0])
    nature.before(1, {})
    asks = [Ask("chance", key=str(i)) for i in range(20)]
    assert nature.act(asks) == [nature.act([ask])[0] for ask in asks]


def test_asks_with_options_are_natures() -> None:
    ask = Ask("chance", options=("heads", "tails"), weights=(0.0, 1.0), key="a")
    assert selection().act([ask]) == [Reply("tails")]
    assert selection().probabilities([ask]) == [(0.0, 1.0)]


@pytest.mark.parametrize(("every", "called"), [(0, [1]), (1, [1, 2, 3, 4, 5]), (2, [1, 3, 5])])
def test_when_the_strategy_is_called(every: int, called: list[int]) -> None:
    calls: list[int] = []

    def strategy(pool: Any) -> Tensor:
        calls.append(pool.step)
        return torch.ones(4)

    nature = Selection(lambda rng: str(rng.randrange(4)), 4, strategy, every)
    for step in range(1, 6):
        nature.before(step, {})
    assert calls == called


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([0.0] * 4, "gave the weight 0 for every question"),
        ([1.0, -1.0, 1.0, 1.0], "gave the weight -1;"),
        ([1.0, float("nan"), 1.0, 1.0], "gave the weight nan;"),
        ([1.0, float("inf"), 1.0, 1.0], "gave the weight inf;"),
        ([1.0] * 3, r"gave weights of shape \(3,\) for 4 questions"),
    ],
)
def test_weights_that_make_no_sense(weights: list[float], sentence: str) -> None:
    with pytest.raises(SelfplayError, match=sentence):
        selection(weights).before(1, {})


def test_a_game_without_questions() -> None:
    with pytest.raises(SelfplayError, match="this game draws none from a task; use game=dataset or game=demonstra"):
        Selection()
    ended = cli.run("game=kuhn", "data=uniform", "steps=1")
    assert ended.code == 1 and ended.err.startswith("error: data selects questions, but this game draws none")


def test_another_pool_is_not_resumed() -> None:
    one, other = selection(count=4), Selection(lambda rng: f"other {rng.randrange(4)}", 4)
    assert Random(0).random() == Random(0).random()
    with pytest.raises(SelfplayError, match="the pool of questions is not that of the checkpoint"):
        other.load_state_dict(one.state_dict())


def asked(folder: Path) -> list[str]:
    return [t["reply"] for t in cli.lines(folder / "episodes.jsonl") if t["role"] == "chance"]


@pytest.mark.parametrize(
    "options",
    [
        (*TAUGHT, "data=focus", "players.nature.every=2"),
        ("game=dataset", "data=least_solved", "game.answers=2", "reward=verifier"),
    ],
    ids=["focus", "least_solved"],
)
def test_a_resumed_run_selects_as_one_that_never_stopped(options: tuple[str, ...], tmp_path: Path) -> None:
    """Step 4 of `focus` is in the middle of a phase whose weights were computed from the learner of step 2."""
    whole = cli.finished(tmp_path / "whole", *FEW, *options, "steps=4")
    half = cli.finished(tmp_path / "half", *FEW, *options, "steps=3")
    ended = cli.run(f"resume={half}", "steps=4")
    assert ended.code == 0, ended.err
    assert cli.metrics(half) == cli.metrics(whole)
    assert asked(half) == asked(whole)
    last = "checkpoints/step-000004/state.pt"
    assert (half / last).read_bytes() == (whole / last).read_bytes()
    state = torch.load(whole / last, weights_only=True)["players"]["nature"]
    assert float(state["weights"].min()) < float(state["weights"].max())
    known = set(asked(whole))
    assert len(known) > 1 and all("data/effective" in line for line in cli.metrics(whole) if line["step"] > 0)
