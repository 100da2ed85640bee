"""Objectives, advantages, role weights and the descent step, against numbers worked by hand."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from batches import batch
from torch import Tensor
from torch.nn import Parameter

from selfplay.core import Ask, Batch, Player, Policy, Reply, SelfplayError
from selfplay.out_of_memory import Rows
from selfplay.updates.advantages import (
    RoleBaseline,
    centred,
    group_mean,
    group_std,
    leave_one_out,
    preferred,
    standardised,
)
from selfplay.updates.aggregations import constant as constant_length
from selfplay.updates.aggregations import per_reply, per_token, sequence_sum
from selfplay.updates.descent import by_prompt, descend, frozen_logprobs
from selfplay.updates.gradient_step import role_weights
from selfplay.updates.losses import cispo, clipped, gspo, likelihood, reinforce, sapo
from selfplay.updates.policy_gradient import PolicyGradient
from selfplay.updates.regularizers import Off

PAYOFFS = torch.tensor([1.0, 3.0, 2.0, 4.0, 9.0, 7.0])
GROUPS = torch.tensor([0, 0, 1, 1, 1, 2])
CLIPPED = partial(clipped, low=0.2, high=0.2)
OBJECTIVES = [reinforce, clipped, gspo, cispo, sapo]


class Table(Policy):
    """Log-probabilities that are parameters themselves, one a reply token id; can be told to break."""

    def __init__(self, values: Sequence[float], breaks: Callable[[], None] = lambda: None) -> None:
        self.values, self.breaks = Parameter(torch.tensor(values)), breaks

    def act(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply("") for _ in asks]

    def logprobs(self, batch: Batch) -> Tensor:
        self.breaks()
        return self.values[batch.replies] * batch.mask

    def parameters(self) -> Iterable[Parameter]:
        return [self.values]

    def snapshot(self) -> Policy:
        return Table(self.values.tolist())

    def restore(self, snapshot: Policy) -> None:
        raise NotImplementedError

    def with_temperature(self, temperature: float) -> Player:
        return self

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError


def at_once(turns: int) -> Rows:
    return Rows(turns, "update.micro_batch")


def sgd(policy: Policy, lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(policy.parameters(), lr=lr)


def made(policy: Policy, **changes: object) -> PolicyGradient:
    """The update of Language Self-Play by plain gradient descent."""
    arguments: dict[str, object] = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=1.0),
        "regularizer": Off(),
        "micro_batch": 2,
        "max_grad_norm": 9.0,
    }
    return PolicyGradient(policy, policy, ("a", "b"), **(arguments | changes))  # type: ignore[arg-type]


# --- advantages -------------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    """Groups {1, 3}, {2, 4, 9}, {7}: means 2, 5, 7; variances 2 / 1, 26 / 2, none."""
    assert group_mean(PAYOFFS, GROUPS).tolist() == [2, 2, 5, 5, 5, 7]
    torch.testing.assert_close(group_std(PAYOFFS, GROUPS) ** 2, torch.tensor([2.0, 2.0, 13.0, 13.0, 13.0, 0.0]))
    assert centred(PAYOFFS, GROUPS).tolist() == [-1, 1, -3, -1, 4, 0]
    r2, r13 = math.sqrt(2) + 0.5, math.sqrt(13) + 0.5
    expected = torch.tensor([-1 / r2, 1 / r2, -3 / r13, -1 / r13, 4 / r13, 0.0])
    torch.testing.assert_close(standardised(PAYOFFS, GROUPS, epsilon=0.5), expected)


def test_the_others_mean_by_hand() -> None:
    """1 - 3, 3 - 1; 2 - (4 + 9) / 2, 4 - (2 + 9) / 2, 9 - (2 + 4) / 2; nobody else."""
    assert leave_one_out(PAYOFFS, GROUPS).tolist() == [-2, 2, -4.5, -1.5, 6, 0]
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0, 2.0, 1.0])
    assert (
        leave_one_out(PAYOFFS, GROUPS, weights=weights).tolist() == centred(PAYOFFS, GROUPS, weights=weights).tolist()
    )


def test_what_wins_by_hand() -> None:
    """Pay-offs log 3 apart win 3 to 1; a turn wins over itself half the time."""
    ln3 = math.log(3)
    paid, groups = torch.tensor([ln3, 0.0, 5.0]), torch.tensor([0, 0, 1])
    assert preferred(paid, groups).tolist() == pytest.approx([0.125, -0.125, 0.0], abs=1e-6)
    weighed = preferred(paid, groups, (), torch.tensor([1.0, 3.0, 1.0]))  # (1/2 + 3 x 3/4) / 4, (1/4 + 3 x 1/2) / 4
    assert weighed.tolist() == pytest.approx([2.75 / 4 - 0.5, 1.75 / 4 - 0.5, 0.0], abs=1e-6)


def test_standard_deviation_is_torchs() -> None:
    expected = [float(pair.std()) for pair in (PAYOFFS[:2], PAYOFFS[2:5])]
    assert group_std(PAYOFFS, GROUPS)[[0, 2]].tolist() == pytest.approx(expected, rel=1e-6)


def test_equal_payoffs_and_groups_of_one_earn_nothing() -> None:
    payoffs, groups = torch.tensor([3.0, 3.0, 8.0]), torch.tensor([0, 0, 1])
    assert centred(payoffs, groups).tolist() == standardised(payoffs, groups).tolist() == [0, 0, 0]


def test_order_of_groups_is_no_matter() -> None:
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(standardised(PAYOFFS[order], GROUPS[order]), standardised(PAYOFFS, GROUPS)[order])


def test_a_payoff_without_group_is_refused() -> None:
    with pytest.raises(AssertionError, match="one group per payoff"):
        centred(PAYOFFS, GROUPS[:5])


def test_baselines_of_roles_by_hand() -> None:
    """b_a: 0, then 3/4 of 0 and 1/4 of 2, then 3/4 of 1/2 and 1/4 of 8. b_b: 0, 1/4 of -4; role c comes late."""
    advantage, groups = RoleBaseline(0.75), torch.tensor([0, 0, 1])
    first = advantage(torch.tensor([1.0, 3.0, -4.0]), groups, ("a", "a", "b"))
    assert first.tolist() == [1, 3, -4]
    assert advantage.baseline == {"a": 0.5, "b": -1.0}
    second = advantage(torch.tensor([8.0, 5.0]), torch.tensor([0, 0]), ("a", "c"))
    assert second.tolist() == [7.5, 5]  # groups are no matter, and what this batch paid comes after
    assert advantage.baseline == {"a": 2.375, "b": -1.0, "c": 1.25}
    third = advantage(torch.tensor([0.0, 0.0, 0.0]), groups, ("c", "b", "a"))
    assert third.tolist() == [-1.25, 1, -2.375]


def test_a_baseline_of_the_last_batch_alone() -> None:
    advantage = RoleBaseline(0.0)
    for mean in (2.0, -6.0):
        advantage(torch.tensor([mean, mean + 2, mean - 2]), torch.zeros(3, dtype=torch.int64), ("a",) * 3)
        assert advantage.baseline == {"a": mean}


def test_baselines_are_remembered() -> None:
    advantage, other = RoleBaseline(0.5), RoleBaseline(0.5)
    advantage(torch.tensor([4.0]), torch.tensor([0]), ("a",))
    state = advantage.state_dict()
    advantage(torch.tensor([4.0]), torch.tensor([0]), ("a",))
    assert state == {"baseline": {"a": 2.0}}  # and not what came after
    other.load_state_dict(state)
    other(torch.tensor([4.0]), torch.tensor([0]), ("a",))
    assert other.state_dict() == advantage.state_dict() == {"baseline": {"a": 3.0}}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(SelfplayError, match=rf"update.advantage.decay is {decay}; choose a number of at least 0"):
        RoleBaseline(decay)


# --- objectives -------------------------------------------------------------------------------------------------------


def test_reinforce_by_hand() -> None:
    """Value -A + the sum of the penalties, gradient -A on each sampled token, plus the penalty's own (here: 3)."""
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([2.0, -3.0])
    loss = reinforce(logprobs, torch.zeros(2, 2), mask, advantages, 3.0 * logprobs)
    assert loss.tolist() == [-2 + 3 * -3, 3 + 3 * -0.5]
    loss.sum().backward()
    assert logprobs.grad.tolist() == [[-2 + 3, -2 + 3], [3 + 3, 0]]


def test_clipped_by_hand() -> None:
    """Ratios 3/2 and 1/2, clipped at 0.8 and 1.2: A = 1 gains 1.2 and 0.5; A = -1 gains -1.5 and -0.8; a sum."""
    old = torch.tensor([[-2.0, -1.0], [-2.0, -1.0], [-2.0, 0.0]])
    logprobs = (old + torch.tensor([1.5, 0.5]).log()).requires_grad_()
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    penalty = torch.tensor([[0.1, 0.3], [0.0, 0.0], [0.7, 9.0]])
    loss = clipped(logprobs, old, mask, torch.tensor([1.0, -1.0, 10.0]), penalty, low=0.2, high=0.2)
    torch.testing.assert_close(loss, torch.tensor([0.1 - 1.2 + 0.3 - 0.5, 1.5 + 0.8, 0.7 - 12.0]))
    loss.sum().backward()
    expected = torch.tensor([[0.0, -0.5], [1.5, 0.0], [0.0, 0.0]])  # only what was not clipped pulls, by its ratio
    torch.testing.assert_close(logprobs.grad, expected)


def test_clip_higher_by_hand() -> None:
    """The same ratios, clipped at 0.6 and 1.3: A = 1 gains 1.3 and 0.5; A = -1 gains -1.5 and -0.6."""
    old = torch.tensor([[-2.0, -1.0], [-2.0, -1.0]])
    logprobs = old + torch.tensor([1.5, 0.5]).log()
    mask, nothing = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2)
    loss = clipped(logprobs, old, mask, torch.tensor([1.0, -1.0]), nothing, low=0.4, high=0.3)
    torch.testing.assert_close(loss, torch.tensor([-1.3 - 0.5, 1.5 + 0.6]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_policy_every_gradient_is_the_advantage(objective: Callable[..., Tensor]) -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    old, mask = logprobs.detach(), torch.ones(1, 3, dtype=torch.bool)
    loss = objective(logprobs, old, mask, torch.tensor([6.0]), torch.zeros(1, 3))
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.full((1, 3), -6.0))
    assert CLIPPED(logprobs, old, mask, torch.tensor([6.0]), torch.zeros(1, 3)).tolist() == [-18.0]


def moved_by(*ratios: float) -> tuple[Tensor, Tensor, Tensor]:
    """[1, T] log-probs with the given ratios to the sampler's, the sampler's, and a mask of ones."""
    old = -torch.arange(1.0, 1 + len(ratios))[None]
    logprobs = (old + torch.tensor([ratios]).log()).requires_grad_()
    return logprobs, old, torch.ones_like(old, dtype=torch.bool)


@pytest.mark.parametrize(
    ("ratios", "advantage", "gain", "pull"),
    [
        ((4.0, 1.0), 1.0, 1.5, 0.0),  # the geometric mean 2 is clipped at 1.5
        ((4.0, 1.0), -1.0, -2.0, -2.0),
        ((0.25, 1.0), -1.0, -0.75, 0.0),  # 1 / 2 is clipped at 0.75
        ((0.25, 1.0), 1.0, 0.5, 0.5),
        ((8.0, 1.0, 0.125), 3.0, 3.0, 3.0),  # together they are 1
    ],
)
def test_gspo_by_hand(ratios: tuple[float, ...], advantage: float, gain: float, pull: float) -> None:
    """Times the length, so that the mean over tokens is that of the paper: each token pulls by s A."""
    logprobs, old, mask = moved_by(*ratios)
    loss = gspo(logprobs, old, mask, torch.tensor([advantage]), torch.full_like(old, 0.1), low=0.25, high=0.5)
    torch.testing.assert_close(loss, torch.tensor([len(ratios) * (0.1 - gain)]))
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.full_like(old, -pull))


def test_cispo_by_hand() -> None:
    """Ratios 3 and 1/2 have the weights 2 and 1/2: the loss is -(2 log(3/e) + log(1/2e^2) / 2) A, its slope -w A."""
    logprobs, old, mask = moved_by(3.0, 0.5)
    loss = cispo(logprobs, old, mask, torch.tensor([-2.0]), torch.full_like(old, 0.1), most=2.0)
    value = 2 * (2 * (math.log(3) - 1) + (math.log(0.5) - 2) / 2) + 0.2
    assert loss.tolist() == pytest.approx([value])
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[4.0, 1.0]]))


def test_sapo_by_hand() -> None:
    """With tau = 2 and r = 1 + log(3) / 2, p = 3/4: the gain is 2 p A, and its slope 4 p (1 - p) r A = 3/4 r A."""
    r = 1 + math.log(3) / 2
    logprobs, old, mask = moved_by(r, 1.0)
    for advantage, options in ((3.0, {"positive": 2.0}), (-3.0, {"negative": 2.0})):
        logprobs.grad = None
        loss = sapo(logprobs, old, mask, torch.tensor([advantage]), torch.full_like(old, 0.1), **options)
        torch.testing.assert_close(loss, torch.tensor([0.2 - advantage * (1.5 + 1.0)]))
        loss.sum().backward()
        torch.testing.assert_close(logprobs.grad, torch.tensor([[-advantage * 0.75 * r, -advantage]]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_is_nothing(objective: Callable[..., Tensor]) -> None:
    """Whatever stands off the mask, and however much of it, losses and gradients are the same."""
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    wide = torch.tensor([[-1.0, -2.0, -77.0, 5.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False, False]])
    old, penalty, advantage = torch.tensor([[-1.1, -1.8, 0, -9]]), torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([2.0])
    bare = objective(logprobs, old[:, :2], mask[:, :2], advantage, penalty[:, :2])
    padded = objective(wide, old, mask, advantage, penalty)
    assert bare.tolist() == padded.tolist()
    bare.sum().backward()
    padded.sum().backward()
    assert wide.grad.tolist() == [[*logprobs.grad[0].tolist(), 0.0, 0.0]]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_wrong_shapes_are_refused(objective: Callable[..., Tensor]) -> None:
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for arguments in ((x, x[:, :2], mask, x[:, 0], x), (x, x, mask, x[0], x), (x, x, mask, x[:, 0], x[:1])):
        with pytest.raises(AssertionError):
            objective(*arguments)


def test_likelihood_by_hand() -> None:
    logprobs, mask = torch.tensor([[-1.0, -2.0], [-0.5, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert likelihood(logprobs, mask).tolist() == [3.0, 0.5]


def test_aggregations_by_hand() -> None:
    """Replies of 2, 1 and 3 tokens in the roles a, b, b: b has 4 tokens in 2 turns; weighed 3 to 1, 6 in 4."""
    assert sequence_sum(batch()).tolist() == [1, 1, 1]
    assert per_reply(batch()).tolist() == pytest.approx([1 / 2, 1, 1 / 3])
    assert constant_length(batch(), 8).tolist() == [1 / 8] * 3
    assert per_token(batch()).tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    weighed = replace(batch(), weights=torch.tensor([7.0, 3.0, 1.0]))
    assert per_token(weighed).tolist() == pytest.approx([1 / 2, 4 / 6, 4 / 6])
    empty = replace(batch(), mask=batch().mask & torch.tensor([[False], [True], [True]]))
    assert per_token(empty).tolist() == pytest.approx([0, 1 / 2, 1 / 2])  # the reply of role a is left out
    assert per_reply(empty)[1:].tolist() == pytest.approx([1, 1 / 3])
    with pytest.raises(SelfplayError, match=r"update\.aggregation\.length is 0"):
        constant_length(batch(), 0)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_role_weights_by_hand() -> None:
    weights = role_weights(batch(("a", "b", "b")), {"a": 0.7})
    assert weights.tolist() == pytest.approx([0.7, 0.5, 0.5])
    assert role_weights(batch(("b", "b", "b")), {"b": 6.0}).tolist() == [2.0, 2.0, 2.0]


def test_a_weight_for_nobody_is_refused() -> None:
    policy = Table([0.0])
    with pytest.raises(SelfplayError, match=r"names 'c'.* a, b"):
        made(policy, optimizer=torch.optim.SGD, role_weights={"c": 2.0})
    made(policy, optimizer=torch.optim.SGD, role_weights={"c": 1.0})  # the default changes nothing


def test_a_role_that_was_not_asked_has_no_loss() -> None:
    assert role_weights(batch(), {"c": 5.0}).tolist() == [1.0, 0.5, 0.5]


def test_one_step_by_hand() -> None:
    """Pay-offs 1 / 2 and 6: advantages 0 / -2, 2; weights 1 / 1/2, 1/2. Token 2: +1; token 1: -1 twice; token 0: -1.

    The gradient (-1, -2, 1) has the norm sqrt 6. Plain gradient descent then adds (1, 2, -1).
    """
    policy = Table([-1.0, -2.0, -3.0])
    update = made(policy)
    learnt = update.step(batch())
    metrics = learnt.metrics
    assert policy.values.tolist() == [0.0, 0.0, -4.0]
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(6))
    assert metrics["loss"] == pytest.approx(0.0)  # -(0 * 1 + -2 / 2 + 2 / 2)
    assert metrics["a/entropy"] == 1.5
    assert metrics["b/entropy"] == 2.0  # 3 + 2 + 2 + 1 over four tokens
    assert learnt.advantages is not None and learnt.advantages.tolist() == [0.0, -2.0, 2.0]
    assert policy.values.grad is None


def test_the_gradient_is_scaled_to_its_longest_norm() -> None:
    policy = Table([-1.0, -2.0, -3.0])
    metrics = descend(policy, sgd(policy), batch(), torch.ones(3), lambda rows, lp: 3.0 * lp.sum(1), at_once(9), 0.5)
    moved = policy.values.detach() - torch.tensor([-1.0, -2.0, -3.0])
    assert metrics["grad_norm"] == pytest.approx(3 * math.sqrt(4 + 9 + 1))  # tokens 0, 1, 2 stand there 2, 3, 1 times
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-5)
    torch.testing.assert_close(moved / moved[2], torch.tensor([2.0, 3.0, 1.0]))


def test_the_mismatch_is_of_the_farthest_token() -> None:
    policy = Table([-1.0, -2.25, -2.5])
    metrics = descend(policy, sgd(policy), batch(), torch.ones(3), lambda rows, lp: 0.0 * lp.sum(1), at_once(1), 9.0)
    assert metrics["logprob_mismatch"] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_weights(bad: float) -> None:
    policy = Table([-1.0, -2.0, -3.0])
    optimizer = sgd(policy)
    with pytest.raises(SelfplayError, match="the weights are unchanged"):
        descend(policy, optimizer, batch(), torch.ones(3), lambda rows, lp: bad * lp.sum(1), at_once(2), 1.0)
    assert policy.values.tolist() == [-1.0, -2.0, -3.0]
    assert policy.values.grad is None


def test_a_gradient_that_is_no_number_leaves_the_weights() -> None:
    """sqrt at 0: the loss is 0, its gradient infinite."""
    policy = Table([0.0, -2.0, -3.0])
    with pytest.raises(SelfplayError, match=r"loss is 0\.0"):
        descend(
            policy, sgd(policy), batch(), torch.ones(3), lambda rows, lp: (lp[:, 0] * 0).abs().sqrt(), at_once(3), 1.0
        )
    assert policy.values.tolist() == [0.0, -2.0, -3.0]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "windows", "python"],
)
def test_no_memory_is_told_in_one_sentence(error: Exception) -> None:
    calls: list[int] = []

    def breaks() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error

    policy = Table([-1.0, -2.0, -3.0], breaks)
    with pytest.raises(SelfplayError, match=r"^memory ran out in an update of 3 turns; .*micro_batch \(now 1\)"):
        descend(policy, sgd(policy), batch(), torch.ones(3), lambda rows, lp: lp.sum(1), at_once(1), 1.0)
    assert policy.values.tolist() == [-1.0, -2.0, -3.0]
    assert policy.values.grad is None


def test_another_error_is_not_called_no_memory() -> None:
    def breaks() -> None:
        raise RuntimeError("shapes do not fit")

    policy = Table([-1.0, -2.0, -3.0], breaks)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        descend(policy, sgd(policy), batch(), torch.ones(3), lambda rows, lp: lp.sum(1), at_once(1), 1.0)


def test_micro_batches_keep_prompts_together() -> None:
    """Prompts of 5, 1 and 2 tokens; then of 1 token each, two of them the same."""
    assert [rows.tolist() for rows in by_prompt(batch(), 2)] == [[1, 2], [0]]
    same = replace(batch(), prompts=tuple(torch.tensor([token]) for token in (7, 4, 7)))
    assert [rows.tolist() for rows in by_prompt(same, 2)] == [[1, 0], [2]]
    assert [rows.tolist() for rows in by_prompt(same, 1)] == [[1], [0], [2]]


def test_frozen_logprobs_keep_rows_and_columns() -> None:
    out = frozen_logprobs(Table([-0.1, -0.2, -0.3]), batch(), at_once(1))
    torch.testing.assert_close(out, torch.tensor([[-0.1, -0.2, 0.0], [-0.3, 0.0, 0.0], [-0.2, -0.2, -0.1]]))
    assert not out.requires_grad
