"""What each published system pays its Challenger, worked by hand; and which yaml pays what."""

import math

import pytest
import torch
from bandit import ASK, said, table, updated
from configs import CONF, config

from selfplay.building import make
from selfplay.core import SelfplayError
from selfplay.games import challenger_rewards as pay

NONE = [0.0, 0.0, 0.0, 0.0]
FOUR = ["a", "b", "c", "d"]


def test_lsp_is_quality_minus_reward() -> None:
    """(7 + 4 + 0 + 3) / 4 - (1 + 0 - .5 + .25) / 4 = 3.5 - .1875; an invalid question is no matter."""
    args = ([1.0, 0.0, -0.5, 0.25], [7.0, 4.0, 0.0, 3.0], FOUR)
    assert pay.lsp(*args, False) == pay.lsp(*args, True) == 3.3125


def test_lsp_zero_is_minus_reward_whatever_the_quality() -> None:
    args = ([1.0, 0.0, -0.5, 0.25], [7.0, 4.0, 0.0, 3.0], FOUR)
    assert pay.lsp_zero(*args, False) == pay.lsp_zero(*args, True) == -0.1875


@pytest.mark.parametrize(
    ("rewards", "invalid", "earned"),
    [
        ([1.0, 0.0, 0.0, 0.0], False, 0.75),
        ([1.0, 1.0, 1.0, 0.0], False, 0.25),
        ([0.5, 0.5, 0.0, 1.0], False, 0.5),
        ([0.0, 0.0, 0.0, 0.0], False, -0.5),
        ([1.0, 1.0, 1.0, 1.0], False, -0.5),
        ([1.0, 0.0, 0.0, 0.0], True, -1.0),
        ([0.0, 0.0, 0.0, 0.0], True, -1.0),
    ],
)
def test_absolute_zero(rewards: list[float], invalid: bool, earned: float) -> None:
    assert pay.absolute_zero(rewards, NONE, FOUR, invalid) == earned


@pytest.mark.parametrize(
    ("answers", "r_zero", "sqlm"),
    [
        ("aaaa", 0.0, 0.0),  # p = 1
        ("aaab", 0.5, 1.0),  # p = 3/4
        ("aabb", 1.0, 1.0),  # p = 1/2
        ("abca", 1.0, 1.0),
        ("abcd", 0.5, 0.0),  # p = 1/4: nobody agrees
        ("aabbc", 1 - 2 * 0.1, 1.0),  # p = 2/5
    ],
)
def test_agreement(answers: str, r_zero: float, sqlm: float) -> None:
    """Both look at the answers alone: rewards outside [0, 1] are no matter."""
    args = ([9.0] * len(answers), [0.0] * len(answers), list(answers))
    assert pay.r_zero(*args, False) == pytest.approx(r_zero, abs=1e-15)
    assert pay.sqlm(*args, False) == sqlm
    assert pay.r_zero(*args, True) == -1.0
    assert pay.sqlm(*args, True) == 0.0


@pytest.mark.parametrize(
    ("rewards", "sigma", "earned"),
    [
        ([1.0, 0.0, 1.0, 0.0], 0.2, 1.0),
        ([1.0, 1.0, 1.0, 1.0], 0.2, math.exp(-3.125)),  # .25 / .08
        ([0.0, 0.0, 0.0, 1.0], 0.25, math.exp(-0.5)),  # .0625 / .125
    ],
)
def test_spice(rewards: list[float], sigma: float, earned: float) -> None:
    assert pay.spice(rewards, NONE, FOUR, False, sigma) == pytest.approx(earned, rel=1e-12)
    assert pay.spice(rewards, NONE, FOUR, True, sigma) == -0.1


@pytest.mark.parametrize(
    ("rewards", "passing", "earned"),
    [
        ([0.0], 0.5, 1.0),
        ([1.0], 0.5, 0.0),
        ([1.0, 0.0, 0.0], 0.5, 1.0),
        ([1.0, 0.0], 0.5, 0.0),  # the target passes from 1/2 on
        ([1.0, 0.0, 0.0, 0.0], 0.25, 0.0),
        ([1.0, 1.0, 1.0, 0.0], 1.0, 1.0),
    ],
)
def test_reverse_gen(rewards: list[float], passing: float, earned: float) -> None:
    args = (rewards, NONE[: len(rewards)], FOUR[: len(rewards)])
    assert pay.reverse_gen(*args, False, passing) == earned
    assert pay.reverse_gen(*args, True, passing) == -1.0


def test_error_rate_is_the_share_of_wrong_answers() -> None:
    args = ([1.0, 0.0, 0.0, 0.5], NONE, FOUR)
    assert pay.error_rate(*args, False) == 0.625 and pay.error_rate(*args, True) == 0.0


@pytest.mark.parametrize("solved", range(9))
def test_the_family_holds_the_published_payoffs(solved: int) -> None:
    """Of eight answers, the first `solved` are right and equal, the others wrong and all different."""
    rewards, answers = [1.0] * solved + [0.0] * (8 - solved), ["a"] * solved + [f"b{i}" for i in range(8 - solved)]
    args, p = (rewards, [1.0] * 8, answers), solved / 8
    assert pay.family(*args, False, a=0, b=1) == pay.lsp_zero(*args, False) + 1 == 1 - p
    assert pay.family(*args, False, a=0, b=1, quality=2) == pay.family(*args, False, a=0, b=1) + 2
    tiny = pay.family(*args, False, a=1e-9, b=1)
    assert tiny == pytest.approx(pay.absolute_zero(*args, False) if 0 < p < 1 else 0.0, abs=1e-6)
    share = max(solved, 1) / 8  # the agreement
    assert pay.family(*args, False, of="agreement") == pytest.approx(4 * share * (1 - share))
    if share in (0.5, 1.0):
        assert pay.family(*args, False, of="agreement") == pay.r_zero(*args, False)
    if share > 1 / 8:
        limit = pay.family(*args, False, a=1e-9, b=1e-9, of="agreement")
        assert limit == pytest.approx(pay.sqlm(*args, False), abs=1e-6)
    assert pay.family(*args, False, a=3, b=3) == pytest.approx(pay.spice(*args, False), abs=0.1)
    assert pay.family(*args, True, penalty=0.3) == -0.3 and pay.family(*args, False, a=0, b=0) == 1.0


@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (2.0, 1.0), (0.5, 0.5), (0.0, 2.0), (4.0, 0.0)])
def test_the_familys_maximum_is_1(a: float, b: float) -> None:
    paid = [pay.family([p], [0.0], [""], False, a, b) for p in (i / 1000 for i in range(1001))]
    assert max(paid) == pytest.approx(1.0, abs=1e-5) and paid.index(max(paid)) == round(1000 * a / (a + b))


def test_the_family_knows_two_shares() -> None:
    with pytest.raises(SelfplayError, match=r"challenger\.of is 'truth'; choose reward or agreement"):
        pay.family([1.0], [0.0], [""], False, of="truth")


def test_reverse_gens_optimum_under_dpo() -> None:
    """Arm i fails with probability f_i: all failing over all passing questions end at ref (f / (1 - f))^(1 / beta).

    The judge of Bradley and Terry that these pairs are is sigmoid(logit f_i - logit f_j).
    """
    fails, beta = (0.9, 0.5, 0.2, 0.6), 1.5
    policy = table()
    before = torch.tensor(policy.probabilities([ASK])[0])
    paid = [pay.reverse_gen([reward], [0.0], [""], False) for reward in (0.0, 1.0)]
    weights = [share for f in fails for share in (f, 1 - f)]
    batch = said(policy, [i for i in range(4) for _ in paid], paid * 4, weights)
    update = updated(
        policy, "dpo", "update.pairs._target_=selfplay.updates.pairs.winners_and_losers", f"update.beta={beta}",
        "update.compare=group", "update.optimizer.lr=4", "update.max_grad_norm=inf",
    )  # fmt: skip
    for _ in range(150):
        update.step(batch)
    found = torch.tensor(policy.probabilities([ASK])[0])
    odds = torch.tensor([f / (1 - f) for f in fails])
    expected = before * odds ** (1 / beta)
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-4, rtol=0)
    assert float((found - before).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["absolute_zero", "error_rate", "family", "reverse_gen", "spice"])
@pytest.mark.parametrize(("bad", "told"), [(-0.01, "-0.01"), (1.5, "1.5"), (math.nan, "nan")])
def test_success_needs_rewards_between_0_and_1(name: str, bad: float, told: str) -> None:
    with pytest.raises(SelfplayError, match=f"challenger={name} needs rewards between 0 and 1, but one is {told};"):
        getattr(pay, name)([1.0, 0.0, bad], NONE[:3], FOUR[:3], False)


@pytest.mark.parametrize("name", ["absolute_zero", "error_rate", "family", "reverse_gen", "spice"])
def test_the_bounds_themselves_are_fine(name: str) -> None:
    assert math.isfinite(getattr(pay, name)([1.0, 0.0], NONE[:2], FOUR[:2], False))


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "challenger").glob("*.yaml"))])
def test_a_yaml_pays_by_the_function_of_its_name(name: str) -> None:
    game = make(config("game=lsp", f"challenger={name}").game, "game")
    args = ([1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], ["a", "a", "a", "b"])
    for invalid in (False, True):
        assert game.pay(*args, invalid) == getattr(pay, name)(*args, invalid)
