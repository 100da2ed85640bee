"""The order in which a round learns: by surprisal on numbers worked by hand, in shares of whole groups, resumable."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import cli
import pytest
import torch
from bandit import ARMS, ASK, table
from batches import batch
from test_stages import FEW, RULES, known, pulls, staged

from selfplay.core import Batch, Episode, SelfplayError, Turn
from selfplay.rollout import collate
from selfplay.updates.orders import shuffled, surprisal
from selfplay.updates.stages import Stages


def test_surprisal_is_the_mean_over_the_tokens_of_a_reply() -> None:
    """Log-probs -1 -2 / -3 / -2 -2 -1: means 1.5, 3, 5/3; what is outside the mask does not count."""
    turns = batch()
    found = surprisal(turns, lambda: turns.logprobs - 7 * ~turns.mask, Random(0))
    torch.testing.assert_close(found, torch.tensor([1.5, 3.0, 5 / 3]))


def test_shuffled_is_random_and_reads_no_log_probs() -> None:
    def never() -> torch.Tensor:
        raise AssertionError

    one, same, other = (shuffled(batch(), never, Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def arms(places: list[int], group: list[int]) -> Batch:
    """One turn per arm; equal numbers are one group."""
    replies = table().reply_with([ASK] * len(places), places)
    episodes = {g: Episode(g, []) for g in group}
    return collate(
        [(episodes[g], Turn(replace(ASK, group=0), reply, payoff=1.0)) for g, reply in zip(group, replies, strict=True)]
    )


def seen_by(stages: Stages) -> list[list[str]]:
    """The arms that each update learns from, filled as the rule's steps are made."""
    found: list[list[str]] = []
    [part] = stages.parts.values()
    step = part.step
    part.step = lambda one: (found.append([ARMS[i] for i in one.replies[:, 0].tolist()]), step(one))[1]  # type: ignore[method-assign, func-returns-value]
    return found


def policy(*shares: float) -> Any:
    """A table with these probabilities of the arms p, q, r, s."""
    made = table()
    made.act([ASK])
    made.logits.data[0] = torch.tensor(shares).log()
    return made


def test_a_round_learns_from_likely_turns_first() -> None:
    """Probabilities 0.1, 0.4, 0.2, 0.3 of p, q, r, s over two steps: q s | r p."""
    stages = staged(policy(0.1, 0.4, 0.2, 0.3), "rejection", hoard=2, room=2, fits=2, order=surprisal)
    found = seen_by(stages)
    stages.step(arms([0, 1], [0, 1]))
    stages.step(arms([2, 3], [0, 1]))
    assert found == [["q", "s"], ["r", "p"]]


def test_groups_stay_together_and_are_ordered_by_their_mean() -> None:
    """-log p: 2.21, 0.92, 1.66, 1.20; the means of {s}, {p, q} and {r} are 1.20, 1.56 and 1.66."""
    stages = staged(policy(0.11, 0.4, 0.19, 0.3), "rejection", fits=3, order=surprisal)
    found = seen_by(stages)
    stages.step(arms([0, 1, 2, 3], [0, 0, 1, 2]))
    assert found == [["s"], ["p", "q"], ["r"]]


def test_every_turn_is_learnt_once_in_shares_that_differ_by_one_group() -> None:
    for order in (shuffled, surprisal):
        stages = staged(known(), "rejection", fits=3, order=order)
        sizes: list[list[int]] = []
        [part] = stages.parts.values()
        step = part.step
        part.step = lambda one, step=step, sizes=sizes: (sizes.append(one.groups.tolist()), step(one))[1]  # type: ignore[misc, func-returns-value]
        stages.step(pulls(table(), 1))
        assert sorted(g for one in sizes for g in one) == sorted([*range(8)] * 2)
        assert [len(set(one)) for one in sizes] == [2, 3, 3]


def test_the_order_is_that_of_the_policy_of_the_round() -> None:
    """After the first round has made p likely, the second one begins with it."""
    made = policy(0.1, 0.4, 0.2, 0.3)
    stages = Stages(made, made.snapshot(), None, {"sft": RULES["rejection"]}, 1, 1, 2, order=surprisal)
    found = seen_by(stages)
    stages.step(arms([0, 1], [0, 1]))
    made.logits.data[0] = torch.tensor([0.6, 0.1, 0.1, 0.2]).log()
    stages.step(arms([0, 1], [0, 1]))
    assert found == [["q"], ["p"], ["p"], ["q"]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"groups": 2}, "update.groups is 2, but with update.order every update takes an equal share of the groups"),
        ({"fits": 9}, "update.fits is 9, but a round has only 8 groups of turns to share out in update.order; lower"),
    ],
)
def test_what_has_no_order(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(SelfplayError, match=sentence):
        staged(known(), order=surprisal, **options).step(pulls(table(), 1))


@pytest.mark.parametrize("name", ["shuffled", "surprisal"])
def test_a_run_in_an_order_resumes_within_a_round(name: str, tmp_path: Path) -> None:
    order = ("+update.order._partial_=true", f"+update.order._target_=selfplay.updates.orders.{name}")
    args = (*FEW, "update=stages", "update.hoard=2", "update.room=2", "update.fits=2", "~update.parts.preferences")
    whole = cli.finished(tmp_path / "whole", *args, *order, "steps=4")
    half = cli.finished(tmp_path / "half", *args, *order, "steps=3")
    ended = cli.run(f"resume={half}", "steps=4")
    assert ended.code == 0, ended.err
    assert cli.metrics(half) == cli.metrics(whole)
    for file in ("model.safetensors", "state.pt"):
        last = f"checkpoints/step-000004/{file}"
        assert (half / last).read_bytes() == (whole / last).read_bytes()
