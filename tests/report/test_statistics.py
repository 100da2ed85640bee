"""Figures over seeds against numbers worked by hand and against scipy."""

from math import isnan, nan, sqrt

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from selfplay.core import SelfplayError
from selfplay.report.statistics import compare, curves, estimate, format_estimate, holm, paired_t, sign_flip


def runs(*rows: tuple[str, int | None, float], status: str = "finished") -> pd.DataFrame:
    table = pd.DataFrame([{"setting": s, "seed": seed, "gain": x, "status": status} for s, seed, x in rows])
    table["run"] = [f"r{i}" for i in range(len(table))]
    return table.astype({"seed": "Int64"})


def one(table: pd.DataFrame, setting: str) -> dict[str, float]:
    [row] = table[table["setting"] == setting].to_dict("records")
    return dict(row)


def test_an_estimate_as_text() -> None:
    """Of 0.5, 0.6, 0.7: 0.6 ± 4.3027 · 0.1 / √3."""
    assert format_estimate([0.5, 0.6, np.nan, 0.7]) == "60.0 [35.2, 84.8]"
    assert format_estimate([1, 2], scale=1, digits=1) == "1.5 [-4.9, 7.9]"
    assert format_estimate([0.25]) == "25.0" and format_estimate([]) == format_estimate([np.nan]) == ""
    assert format_estimate([0.25, 0.25, 0.25]) == "25.0", "nothing is known of the spread"


def test_an_interval_worked_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.302653
    assert found.n == 3 and found.mean == 2.0
    assert found.low == pytest.approx(2 - 4.302653 / sqrt(3)) and found.high == pytest.approx(2 + 4.302653 / sqrt(3))


def test_an_interval_is_scipys() -> None:
    x = np.random.default_rng(0).normal(size=9)
    low, high = stats.t.interval(0.95, 8, loc=x.mean(), scale=stats.sem(x))
    assert (estimate(x).low, estimate(x).high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval() -> None:
    found = estimate([0.25])
    assert (found.n, found.mean) == (1, 0.25) and isnan(found.low) and isnan(found.high)
    assert estimate([]).n == 0 and isnan(estimate([]).mean)


def test_the_interval_of_a_share_ends_within_0_and_1() -> None:
    """Of 0.9, 1, 1: 0.967 ± 4.3027 · 0.0577 / √3 would be [0.823, 1.110]."""
    plain, found = estimate([0.9, 1.0, 1.0]), estimate([0.9, 1.0, 1.0], share=True)
    assert plain.high > 1.1 and 0 < found.low < found.mean < found.high < 1
    half = (plain.high - plain.low) / 2 / (found.mean * (1 - found.mean))
    assert np.log(found.high / (1 - found.high)) == pytest.approx(np.log(found.mean / (1 - found.mean)) + half)
    assert format_estimate([0.9, 1.0, 1.0], share=True) == "96.7 [25.3, 100.0]"
    close = [0.571, 0.572, 0.574]
    assert estimate(close, share=True).low == pytest.approx(estimate(close).low, abs=1e-5)
    assert isnan(estimate([1.0, 1.0, 1.0], share=True).low) and isnan(estimate([0.0] * 5, share=True).high)


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 0.02), (0.57, 0.02), (0.9, 0.03), (0.97, 0.02), (0.8, 0.2)])
@pytest.mark.parametrize("seeds", [2, 3, 6, 10])
def test_the_interval_of_a_share_over_seeds_covers(mean: float, spread: float, seeds: int) -> None:
    """Seeds whose shares are drawn from a Beta distribution."""
    size = mean * (1 - mean) / spread**2 - 1
    drawn = np.random.default_rng(0).beta(mean * size, (1 - mean) * size, (3000, seeds))
    found = [estimate(row, share=True) for row in drawn]
    assert np.mean([e.low <= mean <= e.high for e in found]) >= 0.93


def test_curves_and_comparisons_know_shares_by_their_name() -> None:
    rows = pd.concat([steps("a", 1, (1, 5, 1.0)), steps("b", 2, (1, 5, 0.7))])
    [band] = curves(rows.rename(columns={"reward": "valid"}), "valid").to_dict("records")
    assert 0 < band["low"] < band["high"] < 1 < curves(rows, "reward")["high"][0]
    table = runs(("a", 1, 1.0), ("a", 2, 0.7)).assign(metric="eval/accuracy", optimized=[1.0, 0.7])
    assert compare(table)["high"][0] < 1 < compare(table.assign(metric="eval/return"))["high"][0]


def test_the_paired_test_is_scipys() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 7))
    assert paired_t(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_t([1.0, 3.0]) == pytest.approx(2 * stats.t.sf(2.0, 1)) and paired_t([1.0, 3.0]) == pytest.approx(
        0.295167
    )


def test_the_paired_test_where_there_is_no_spread() -> None:
    assert isnan(paired_t([1.0])) and isnan(paired_t([0.1 + 0.2, 0.3, 0.3]))
    assert paired_t([0.0, 0.0]) == 1.0


def test_sign_flips_worked_by_hand() -> None:
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8, "only all plus and all minus are as far from 0"
    assert sign_flip([1.0, 2.0, -3.0]) == 1.0, "the sum is 0"
    assert sign_flip([1.0, -2.0, 4.0]) == 6 / 8, "the sums are 7, 5, 3 and 1, each twice; 3 was seen"
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 32
    assert sign_flip([2.0]) == 1.0 and isnan(sign_flip([])) and isnan(sign_flip([1.0] * 13))


def test_sign_flips_are_scipys() -> None:
    d = np.random.default_rng(2).normal(0.6, 1.0, size=8)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(exact.pvalue) and 2 / 256 < sign_flip(d) < 1


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, nan, 0.01]).tolist() == pytest.approx([0.04, nan, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0] and holm([]).tolist() == []


def test_a_comparison_is_paired_by_seed() -> None:
    table = runs(
        ("base", 1, 0.1), ("base", 2, 0.5), ("base", 3, 0.9),
        ("new", 3, 1.2), ("new", 1, 0.2), ("new", 2, 0.7),
        ("worse", 1, 0.0), ("worse", 2, 0.3), ("worse", 3, 0.4),
    )  # fmt: skip
    found = compare(table, "gain", "base")
    assert found["setting"].tolist() == ["base", "new", "worse"]
    base, new = one(found, "base"), one(found, "new")
    assert base["pairs"] == 0 and isnan(base["difference"]) and isnan(base["p"]) and base["note"] == ""
    assert (new["n"], new["mean"], new["pairs"]) == (3, pytest.approx(0.7), 3)
    differences = [0.1, 0.2, 0.3]  # mean 0.2, s = 0.1
    assert new["difference"] == pytest.approx(0.2)
    assert new["difference/low"] == pytest.approx(0.2 - 4.302653 * 0.1 / sqrt(3))
    assert new["difference/high"] == pytest.approx(0.2 + 4.302653 * 0.1 / sqrt(3))
    assert new["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue) and new["p/exact"] == 0.25
    assert found["p/holm"].tolist() == pytest.approx(holm(found["p"]).tolist(), nan_ok=True)
    assert new["p/holm"] == pytest.approx(2 * new["p"]), "two settings were compared, the baseline was not"


def test_a_comparison_without_a_baseline() -> None:
    found = compare(runs(("a", 1, 0.0), ("b", 1, 1.0)), "gain")
    assert found["mean"].tolist() == [0.0, 1.0] and found["difference"].isna().all()
    assert found["note"].tolist() == ["one seed: no interval"] * 2


def test_only_seeds_in_common_are_compared() -> None:
    table = runs(("base", 1, 0.0), ("base", 2, 0.0), ("new", 2, 1.0), ("new", 3, 5.0), ("far", 8, 1.0), ("far", 9, 2.0))
    new, far = (one(compare(table, "gain", "base"), setting) for setting in ("new", "far"))
    assert (new["n"], new["pairs"], new["difference"]) == (2, 1, 1.0) and isnan(new["difference/low"])
    assert new["note"] == "one pair: no test" and new["p/exact"] == 1.0 and isnan(new["p"])
    assert far["note"] == "no seed in common with the baseline" and isnan(far["difference"])


def test_a_comparison_says_what_it_left_out() -> None:
    good = runs(("base", 1, 0.0), ("base", 2, 1.0), ("new", 1, 0.5), ("new", 2, 1.5), ("new", 3, nan))
    table = pd.concat([good, runs(("new", 4, 9.0), ("gone", 1, 0.3), status="failed")], ignore_index=True)
    found = compare(table, "gain", "base")
    new, gone = one(found, "new"), one(found, "gone")
    assert (new["n"], new["mean"], new["left out"]) == (2, 1.0, 2)
    assert (
        new["note"] == "all differences are equal: no interval, no t-test" and isnan(new["p"]) and new["p/exact"] == 0.5
    )
    assert (gone["n"], gone["left out"], gone["note"]) == (0, 1, "no finished run has this metric")


def test_runs_of_one_seed_are_one_observation() -> None:
    table = runs(("base", 1, 0.0), ("base", 1, 0.2), ("base", 2, 0.3), ("base", None, 0.8), ("base", None, 0.7))
    [found] = compare(table, "gain").to_dict("records")
    assert found["n"] == 4 and found["mean"] == pytest.approx((0.1 + 0.3 + 0.8 + 0.7) / 4)
    assert found["note"] == "1 run with a repeated seed: averaged"


def test_a_comparison_needs_a_metric_and_a_baseline_that_exist() -> None:
    table = runs(("a", 1, 0.0))
    with pytest.raises(SelfplayError, match="metric is 'loss', which these runs do not have; choose one of seed, gain"):
        compare(table, "loss")
    with pytest.raises(SelfplayError, match="metric is 'status'"):
        compare(table, "status")
    with pytest.raises(SelfplayError, match="baseline is 'b', but no run has this setting; choose one of: a"):
        compare(table, "gain", "b")


def steps(run: str, seed: int | None, *rows: tuple[int, float, float]) -> pd.DataFrame:
    table = pd.DataFrame([{"step": step, "tokens": tokens, "reward": y} for step, tokens, y in rows])
    table.insert(0, "run", run)
    table.insert(1, "setting", "s")
    table.insert(2, "seed", pd.Series([seed] * len(table), dtype="Int64"))
    return table


def test_a_curve_against_steps_is_an_estimate_a_step() -> None:
    table = pd.concat([steps("a", 1, (1, 5, 0.0), (2, 9, 4.0)), steps("b", 2, (1, 5, 2.0), (2, 9, nan), (3, 11, 7.0))])
    found = curves(table, "reward")
    assert found["x"].tolist() == [1, 2, 3] and found["n"].tolist() == [2, 1, 1]
    assert found["mean"].tolist() == [1.0, 4.0, 7.0]
    assert found["low"][0] == pytest.approx(1 - 12.7062 * sqrt(2) / sqrt(2)) and isnan(found["low"][1])
    assert found["high"][0] == pytest.approx(1 + 12.7062 * sqrt(2) / sqrt(2)) and set(found["setting"]) == {"s"}


def test_a_curve_against_tokens_is_interpolated_where_all_runs_have_been() -> None:
    table = pd.concat(
        [steps("a", 1, (1, 0, 0.0), (2, 10, 10.0)), steps("b", 2, (1, 4, 1.0), (2, 8, 5.0), (3, 20, 5.0))]
    )
    found = curves(table, "reward", "tokens", points=4)
    assert found["x"].tolist() == [4, 6, 8, 10] and found["n"].tolist() == [2] * 4
    assert found["mean"].tolist() == pytest.approx([(4 + 1) / 2, (6 + 3) / 2, (8 + 5) / 2, (10 + 5) / 2])


def test_a_curve_of_runs_that_never_meet_is_empty() -> None:
    apart = pd.concat([steps("a", 1, (1, 0, 0.0), (2, 1, 1.0)), steps("b", 2, (1, 2, 0.0), (2, 3, 1.0))])
    assert len(curves(apart, "reward", "tokens")) == 0
    assert curves(steps("a", 1, (0, 7, 2.0)), "reward", "tokens")["mean"].tolist() == [2.0]


@pytest.mark.parametrize("name", ["reward", "valid"])
def test_a_point_that_some_seeds_lack_is_the_estimate_of_the_others(name: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 0.9, (6, 9))
    values[0, 1:3] = values[3, 2] = values[:5, 4] = np.nan  # point 4: one seed
    values[:, 5], values[:, 6] = 1.0, np.nan  # all equal; none
    runs = [[(i, i, y) for i, y in enumerate(row) if not np.isnan(y)] for row in values]
    table = pd.concat([steps(f"r{seed}", seed, *points) for seed, points in enumerate(runs)])
    found = curves(table.rename(columns={"reward": name}), name)
    assert found["x"].tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    for row in found.to_dict("records"):
        column = values[:, int(row["x"])]
        here = estimate(column[~np.isnan(column)], share=name == "valid")
        assert [row[key] for key in ("n", "mean", "low", "high")] == pytest.approx(
            [here.n, here.mean, here.low, here.high], rel=1e-12, nan_ok=True
        )


def test_a_curve_counts_seeds_not_runs() -> None:
    table = pd.concat(
        [steps(run, seed, (1, 5, y)) for run, seed, y in [("a", 1, 0.0), ("b", 1, 2.0), ("c", None, 4.0)]]
    )
    [found] = curves(table, "reward").to_dict("records")
    assert (found["n"], found["mean"]) == (2, 2.5)


def test_a_curve_needs_a_metric_that_was_logged() -> None:
    table = steps("a", 1, (1, 5, 0.0))
    with pytest.raises(SelfplayError, match="metric is 'loss', which was not logged; choose one of tokens, reward"):
        curves(table, "loss")
    with pytest.raises(SelfplayError, match="against is 'hours'; use 'step' or 'tokens'"):
        curves(table, "reward", "hours")
