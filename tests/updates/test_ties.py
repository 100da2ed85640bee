"""Equal payoffs teach nothing, whatever they are: no advantage, label, pair or win may come from their rounding."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from batches import batch
from torch import Tensor

from selfplay import metrics
from selfplay.core import Ask, Batch, Episode, Reply, Turn
from selfplay.opponents.table import earned, results
from selfplay.referees.ensemble import spread
from selfplay.updates.advantages import (
    Advantage,
    RoleBaseline,
    centred,
    group_mean,
    group_std,
    leave_one_out,
    preferred,
    standardised,
)
from selfplay.updates.imitation import best
from selfplay.updates.kto import above, above_mean
from selfplay.updates.pairs import best_and_worst, winners_and_losers
from selfplay.updates.preferences import win_probabilities

VALUES = [0.1, 0.3, 1 / 3, -0.7, 10.1, 1000.1, -123456.7, 1e-9, 3e-41, 1e30]
SIZES = [2, 3, 7, 8, 16, 100]
ADVANTAGES: dict[str, Advantage] = {
    "centred (LSP, PPO, Dr. GRPO)": centred,
    "standardised (GRPO, DAPO)": standardised,
    "standardised without epsilon": partial(standardised, epsilon=0.0),
    "leave one out (RLOO)": leave_one_out,
    "preferred (Nash-MD)": preferred,
}


def alike(value: float, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Payoffs and groups: a group of each size, all of them paid the same."""
    groups = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    return torch.full((len(groups),), value), groups


def of(payoffs: Tensor, groups: Tensor, weights: Tensor | None = None) -> Batch:
    """A batch with these payoffs; every turn says the same to the same prompt."""
    n, one = len(payoffs), batch().rows(torch.tensor([0]))
    counts = torch.ones(n) if weights is None else weights
    same = one.replies.expand(n, -1), one.mask.expand(n, -1), one.logprobs.expand(n, -1)
    return Batch(one.prompts * n, *same, payoffs, groups, counts, ("a",) * n, ((),) * n, weights is None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_payoffs_have_an_advantage_of_exactly_0(name: str, weighted: bool) -> None:
    for value in VALUES:
        payoffs, groups = alike(value, SIZES)
        weights = torch.rand(len(groups), generator=torch.manual_seed(0)) if weighted else None
        assert ADVANTAGES[name](payoffs, groups, (), weights).abs().max() == 0, value
        assert group_std(payoffs, groups, weights).abs().max() == 0
        assert group_mean(payoffs, groups, weights).tolist() == payoffs.tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_equal_payoffs_have_no_label_pair_or_winner(weighted: bool) -> None:
    for value in VALUES:
        payoffs, groups = alike(value, SIZES)
        weights = torch.rand(len(groups), generator=torch.manual_seed(0)) if weighted else None
        turns = of(payoffs, groups, weights)
        assert not bool(above_mean(turns, groups).any())
        assert not bool(above(turns, groups, float(payoffs[0])).any())
        assert len(best_and_worst(turns, groups)) == len(winners_and_losers(turns, groups)) == 0
        assert not bool(best(turns, groups).any())
        assert win_probabilities(payoffs, groups, weights).tolist() == [0.5] * len(groups)


def test_a_turn_that_is_paid_the_mean_has_no_label() -> None:
    """0.2 is the mean of 0.1, 0.2 and 0.3, though not to the last bit of a float32."""
    payoffs = torch.tensor([0.1, 0.2, 0.3, 1.0, 0.4, 0.7])
    labels = above_mean(of(payoffs, torch.tensor([0, 0, 0, 1, 1, 1])), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert labels.sign().tolist() == [-1, 0, 1, 1, -1, 0]


def test_what_differs_little_is_not_taken_for_equal() -> None:
    """The smallest steps of a float32 at 1 and at 1,000, and payoffs that are small themselves."""
    for low, high in ((1.0, 1.0 + 2**-23), (1000.0, 1000.0 + 2**-14), (1e-9, 2e-9)):
        payoffs, groups = torch.tensor([low, high]), torch.tensor([0, 0])
        assert centred(payoffs, groups).tolist() == pytest.approx([(low - high) / 2, (high - low) / 2], rel=1e-6)
        assert len(best_and_worst(of(payoffs, groups), groups)) == 1
        assert standardised(payoffs, groups, epsilon=0.0).tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-6)


def test_a_baseline_arrives_at_a_payoff_that_never_changes() -> None:
    for decay in (0.0, 0.5, 0.95):
        advantage, (payoffs, groups) = RoleBaseline(decay), alike(1000.1, [8])
        for _ in range(2000):
            last = advantage(payoffs, groups, ("a",) * 8)
        assert last.tolist() == [0.0] * 8


def episode(index: int, payoffs: list[float]) -> Episode:
    turns = [Turn(Ask("a", group=0), Reply("x", (), (1,), (0.0,)), {"reward": paid}, paid, "x") for paid in payoffs]
    return Episode(index, turns)


@pytest.mark.parametrize("value", VALUES)
def test_the_share_of_silent_groups_is_that_of_groups_without_an_advantage(value: float) -> None:
    near = float(torch.tensor(value).nextafter(torch.tensor(2 * value)))
    paid = [[value] * 8, [value] * 16, [value] * 7 + [near], [value, 3 * value, 2 * value]]
    payoffs, groups = torch.tensor([p for one in paid for p in one]), alike(0.0, [8, 16, 8, 3])[1]
    silent = [not bool(centred(payoffs, groups)[groups == group].any()) for group in range(4)]
    assert silent == [True, True, False, False]
    told = metrics.of_episodes([episode(i, one) for i, one in enumerate(paid)])
    assert told["frac_reward_zero_std"] == 0.5
    still = metrics.of_episodes([episode(0, [value] * 8)])
    assert still["a/payoff_std"] == still["a/reward_std"] == 0 and still["a/payoff"] == value


@pytest.mark.parametrize("count", [3, 6, 7])
def test_who_is_paid_alike_has_drawn(count: int) -> None:
    """The mean of `count` turns of 0.1 is 0.1, not what their sum in floats over `count` is."""
    turns = [Turn(Ask("a"), Reply(""), {}, 0.1, "x")] * count + [Turn(Ask("b"), Reply(""), {}, 0.1, "y")]
    met = Episode(0, turns, seats={"a": "x", "b": "y"})
    assert earned(met) == {"a": 0.1, "b": 0.1}
    assert [won for *_, won in results(met, ("a", "b"))] == [0.5, 0.5]


@pytest.mark.parametrize("transform", [lambda x: x, lambda x: 1e-12 * x, lambda x: 1e9 * x], ids=["1", "1e-12", "1e9"])
def test_a_part_with_one_score_for_all_does_not_disagree_by_rounding(transform: Callable[[Tensor], Tensor]) -> None:
    """Against one who says nothing, the disagreement is half the other's mean |z|, whatever the unit."""
    telling = torch.tensor([0.0, 1.0, 2.0, 7.0], dtype=torch.float64)
    z = (telling - telling.mean()) / telling.std(correction=0)
    told = spread(transform(torch.stack([torch.full((4,), 0.1, dtype=torch.float64), telling])))
    assert told == pytest.approx(float(z.abs().mean()) / 2)
