"""IPO and paired KTO: by hand, and IPO's optimum on tables."""

import math

import pytest
import torch
from bandit import ARMS, ASK, said, table, updated
from batches import batch, paired
from torch import Tensor
from toys import Toy

from selfplay.core import Ask, Batch, Episode, Turn, user
from selfplay.players.tabular import Tabular
from selfplay.rollout import collate
from selfplay.updates.pairs import Pairs, winners_and_losers
from selfplay.updates.pairwise import Pairwise
from selfplay.updates.preferences import ipo, kl_baseline, kto, kto_pair

LN3 = math.log(3)


def test_ipo_by_hand() -> None:
    """tau = 1/4 asks for a gap of 2. Ratios 6 and -3 of 2 and 3 tokens: averages 3 and -1, a gap of 4; plainly 9."""
    pairs = paired(torch.tensor([6.0]), torch.tensor([-3.0]), lengths=(torch.tensor([2]), torch.tensor([3])))
    assert ipo(pairs, 0.25).tolist() == [4.0]
    assert ipo(pairs, 0.25, average=False).tolist() == [49.0]


def test_paired_kto_by_hand() -> None:
    """z of the chosen half is log 3, of the rejected half 0; the first carries gradient to both chosen replies."""
    up, down = torch.tensor([2 * LN3, 0.0], requires_grad=True), torch.tensor([-LN3, -LN3], requires_grad=True)
    loss = kto_pair(paired(up, down), 1.0)
    assert loss.tolist() == pytest.approx([(0.1 + 0.1) / 2, (0.5 + 0.1) / 2])
    loss.sum().backward()
    assert up.grad.tolist() == pytest.approx([-0.045 - 0.045, -0.125 - 0.045])  # its own slope, its part of the mean's
    assert down.grad.tolist() == pytest.approx([0.045, 0.045])  # a baseline of 0 has none


def test_paired_ktos_other_baseline_carries_gradient_too() -> None:
    up, down = torch.tensor([-LN3, -LN3], requires_grad=True), torch.tensor([2 * LN3, 0.0], requires_grad=True)
    kto_pair(paired(up, down), 1.0).sum().backward()  # z of the rejected half is log 3, 1 - sigmoid(-2 log 3) twice
    assert up.grad.tolist() == pytest.approx([-0.045, -0.045])
    assert down.grad.tolist() == pytest.approx([0.045 + 0.045, 0.125 + 0.045])


def test_paired_ktos_baselines_are_weighted_and_swapped() -> None:
    """Means 3 and 4 in place of 2 and 3 where the first pair counts three times; each half is kto() with that."""
    up, down, weights = torch.tensor([3.5, 1.5]), torch.tensor([4.5, 2.5]), torch.tensor([3.0, 1.0])
    loss = kto_pair(paired(up, down, weights=weights), 0.3)
    yes = torch.tensor([True, True])
    halves = kto(up, yes, torch.full((2,), 4.0), 0.3), kto(down, ~yes, torch.full((2,), 3.0), 0.3)
    torch.testing.assert_close(loss, (halves[0] + halves[1]) / 2)


def test_lengths_are_those_of_the_replies() -> None:
    """Every token of both replies, 3 and 1 long, rose by 1/2: averages are equal, the loss is (1 / (2 tau))^2."""
    turns = batch()
    update = Pairwise(Toy(0.5), Toy(0.0), compare="group", objective=ipo, beta=0.25)
    metrics = update.step(turns).metrics
    assert metrics["pairs"] == 1 and metrics["b/rewards/margins"] == pytest.approx(0.25 * (1.5 - 0.5))
    assert metrics["loss"] == pytest.approx(4.0)


# --- on tables --------------------------------------------------------------------------------------------------------


def trained(policy: Tabular, batch: Batch, tau: float, pairs: str, steps: int, lr: float) -> Tensor:
    """The policy's final log-ratios of the arms, learnt from one batch over and over."""
    start = torch.tensor(policy.probabilities([ASK])[0]).log()
    update = updated(
        policy, "ipo", f"update.beta={tau}", f"update.pairs._target_=selfplay.updates.pairs.{pairs}",
        "update.compare=group", "update.max_grad_norm=inf", f"update.optimizer.lr={lr}",
    )  # fmt: skip
    for _ in range(steps):
        metrics = update.step(batch).metrics
    assert metrics["grad_norm"] < 1e-5
    return torch.tensor(policy.probabilities([ASK])[0]).log() - start


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_ipos_gap_on_a_fixed_pair(tau: float) -> None:
    """1 / (2 tau), which DPO's loss would exceed without end."""
    policy = table()
    ratios = trained(policy, said(policy, (0, 2), (1.0, -1.0), None), tau, "best_and_worst", 20, 0.2)
    assert float(ratios[0] - ratios[2]) == pytest.approx(1 / (2 * tau), abs=1e-5)


def test_ipos_gaps_on_a_chain_are_its_least_squares() -> None:
    """p > q > s and p > s, one loss each: gaps a, b and a + b nearest to g are a = b = 2 g / 3."""
    policy, tau = table(), 0.5
    ratios = trained(policy, said(policy, (0, 1, 3), (3.0, 2.0, 1.0), None), tau, "winners_and_losers", 20, 0.4)
    gap = 1 / (2 * tau)
    assert float(ratios[0] - ratios[1]) == pytest.approx(2 * gap / 3, abs=1e-5)
    assert float(ratios[1] - ratios[3]) == pytest.approx(2 * gap / 3, abs=1e-5)


def two_roles(policy: Tabular) -> tuple[Batch, Pairs]:
    """Four arms of a solver and two of a critic, whose payoffs are ordered: six pairs and one."""
    asks = [ASK] * 4 + [Ask("critic", user("pull"), ARMS)] * 2
    replies = policy.reply_with(asks, (0, 1, 2, 3, 0, 3))
    turns = [(Episode(i, []), Turn(a, r, payoff=float(-i))) for i, (a, r) in enumerate(zip(asks, replies, strict=True))]
    batch = collate(turns)
    return batch, winners_and_losers(batch, batch.groups)


def test_a_roles_baselines_are_its_own() -> None:
    """A policy that has moved from its reference; the loss is the sum of the roles' mean losses, each alone."""
    policy = table()
    two_roles(policy)  # so that it knows both states
    names = "update.pairs._target_=selfplay.updates.pairs.winners_and_losers", "update.compare=group"
    update = updated(policy, "kto_pair", "update.beta=0.7", *names)
    with torch.no_grad():
        policy.logits += torch.randn(policy.logits.shape, generator=torch.Generator().manual_seed(1))
    batch, pairs = two_roles(policy)
    step, reference = update.gradient_step, update.reference  # type: ignore[attr-defined]
    ratios = (step.logprobs(policy, batch) - step.logprobs(reference, batch))[:, 0]
    expected = 0.0
    for role, count in (("solver", 6), ("critic", 1)):
        mine = torch.tensor([batch.roles[row] == role for row in pairs.rejected.tolist()])
        up, down, ones = ratios[pairs.chosen[mine]], ratios[pairs.rejected[mine]], torch.ones(count)
        assert len(up) == count
        z = kl_baseline(up, ones), kl_baseline(down, ones)
        halves = (1 - torch.sigmoid(0.7 * (up - z[1]))), (1 - torch.sigmoid(0.7 * (z[0] - down)))
        expected += float(((halves[0] + halves[1]) / 2).mean())
    assert update.step(batch).metrics["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["ipo", "kto_pair"])
def test_micro_batches_are_no_matter(name: str) -> None:
    moved = []
    for size in (1, 100):
        policy = table()
        update = updated(policy, name, f"update.micro_batch={size}", "update.compare=group", "update.beta=0.5")
        batch = said(policy, (0, 1, 2, 3), (1.0, 0.0, -1.0, 0.5), None)
        with torch.no_grad():
            policy.logits[0] += torch.tensor([0.3, -0.2, 0.1, 0.0])
        update.step(batch)
        moved.append(policy.logits.detach().clone())
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-5)
