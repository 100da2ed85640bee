"""Statistics over a few seeds: means with intervals, paired comparisons, learning curves.

Every interval is a 95 % Student-t interval over seeds; for shares it is computed on the logit scale, so that it stays
within 0 and 1. A single seed, or seeds that are all equal, have no interval, because their spread is unknown: it is NaN
and a note says so. Runs with the same setting and seed are averaged and count as one observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import expit, logit

from selfplay.core import SelfplayError
from selfplay.measures import measure
from selfplay.theory.intervals import student

EXACT = 12  # largest number of pairs for the exact permutation test
INDICES = ("distinct_1", "distinct_2", "self_bleu")  # shares that are not displayed in per cent
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean of n independent values and its interval; NaN where n is too small."""

    n: int
    mean: float
    low: float
    high: float


def estimate(values: ArrayLike, share: bool = False) -> Estimate:
    """The mean with its Student-t interval: mean ± t(0.975, n-1) · s/√n.

    The interval is NaN for a single value and for values that are all equal; with no values the mean is NaN, too.

    Args:
        values: independent, one per seed.
        share: the values are shares, from 0 to 1. The interval is then logit(mean) ± t(0.975, n-1) · s/√n / (mean (1 -
            mean)), transformed back: nearly the same for small intervals, and within 0 and 1 for large ones.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        return Estimate(0, nan, nan, nan)
    return Estimate(len(x), *map(float, _interval(x, share)))


def _interval(x: Floats, share: bool) -> tuple[Floats, Floats, Floats]:
    """Mean, low and high of `estimate` along the first axis of at least one value."""
    mean, (low, high) = x.mean(axis=0), student(x)
    if share:
        inside = (mean > 0) & (mean < 1)
        p = np.where(inside, mean, 0.5)
        half = (high - low) / 2 / (p * (1 - p))
        low, high = (np.where(inside, expit(logit(p) + side * half), end) for side, end in ((-1, low), (1, high)))
    return mean, low, high


def format_estimate(values: ArrayLike, scale: float = 100.0, digits: int = 1, share: bool = False) -> str:
    """Format `estimate` as "57.2 [55.3, 59.1]", or only the mean if there is no interval. NaN values are ignored."""
    x = np.asarray(values, dtype=float)
    found = estimate(x[~np.isnan(x)], share)
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (found.mean, found.low, found.high))
    if found.n == 0:
        return ""
    return mean if isnan(found.low) else f"{mean} [{low}, {high}]"


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired t-test that the mean difference is 0.

    NaN for fewer than two pairs, and if all differences are equal but not 0, since they have no spread; 1 if all are 0.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return nan
    if np.ptp(d) <= 1e-12 * np.abs(d).max():
        return nan if d.any() else 1.0
    return float(stats.ttest_1samp(d, 0.0).pvalue)


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided p-value of the exact permutation test that flips the sign of each pair's difference.

    The share of all 2^n assignments of signs whose mean is at least as far from 0 as the observed one. It is at least
    2/2^n: five pairs cannot give less than 0.0625. NaN for no pairs, and for more than 12.
    """
    d = np.asarray(differences, dtype=float)
    if not 1 <= len(d) <= EXACT:
        return nan
    sums = np.abs(np.array(list(product((1.0, -1.0), repeat=len(d)))) @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * np.abs(d).sum()))


def holm(p: ArrayLike) -> Floats:
    """Correct p-values for multiple comparisons by Holm's step-down method (1979). NaN stays NaN and is not counted."""
    values = np.asarray(p, dtype=float)
    corrected = np.full_like(values, nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = (len(order) - np.arange(len(order))) * values[order]
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def compare(
    runs: pd.DataFrame, metric: str = "optimized", baseline: str | None = None, share: bool | None = None
) -> pd.DataFrame:
    """One row per setting: its mean over seeds, and its difference to the baseline on the same seeds.

    Args:
        runs: the `runs` of a sweep; unfinished ones and those without the metric are left out, and counted.
        metric: a column of `runs`, for example "eval/gain/gain".
        baseline: the setting to compare with; None for no comparison.
        share: whether the metric is a share, from 0 to 1; None infers it from the name (`selfplay.measures`).

    Returns:
        `setting`; `n` (seeds), `mean`, `low`, `high`; `pairs` (seeds in common with the baseline), `difference`,
        `difference/low`, `difference/high`; `p` (paired t-test), `p/exact` (sign flips), `p/holm` (p corrected for the
        number of comparisons); `left out` (number of runs left out); `note` on what could not be computed.

    Raises:
        SelfplayError: no run has the metric, or the baseline is not a setting.
    """
    if metric not in runs or not pd.api.types.is_numeric_dtype(runs[metric]):
        numeric = ", ".join(runs.select_dtypes("number").columns)
        raise SelfplayError(f"metric is '{metric}', which these runs do not have; choose one of {numeric}")
    settings = list(dict.fromkeys(runs["setting"]))
    if baseline is not None and baseline not in settings:
        raise SelfplayError(
            f"baseline is '{baseline}', but no run has this setting; choose one of: {'; '.join(settings)}"
        )
    narrow = list(dict.fromkeys(["run", "setting", "seed", metric]))
    usable = runs.loc[(runs["status"] == "finished") & runs[metric].notna(), narrow]
    is_share = _is_share(runs, metric) if share is None else share
    by_seed = {setting: _by_seed(usable[usable["setting"] == setting], metric) for setting in settings}
    rows = []
    for setting, values in by_seed.items():
        other = by_seed[baseline] if baseline not in (None, setting) else None
        of_setting = usable["setting"] == setting
        total = int((runs["setting"] == setting).sum())
        doubled = int(of_setting.sum()) - len(values)
        rows.append({"setting": setting, **_row(values, other, is_share), "left out": total - int(of_setting.sum())})
        rows[-1]["note"] = "; ".join(_notes(values, other, rows[-1], doubled))
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p/exact") + 1, "p/holm", holm(table["p"]))
    return table


def _by_seed(runs: pd.DataFrame, metric: str) -> pd.Series:
    """The metric by seed; a run of unknown seed counts as its own observation and is never paired."""
    return runs[metric].astype(float).groupby(_seeds(runs), sort=False).mean()


def _seeds(runs: pd.DataFrame) -> NDArray[np.object_]:
    """Key of the independent observation of each row: its seed, or the run if the seed is unknown."""
    pairs = zip(runs["run"], runs["seed"], strict=True)
    return np.array([f"run {run}" if pd.isna(seed) else int(seed) for run, seed in pairs], dtype=object)


def _is_share(runs: pd.DataFrame, metric: str) -> bool:
    """Whether a column is a share, by its name; for "optimized", by the names of the optimised metrics."""
    names = runs["metric"].dropna().unique() if metric == "optimized" and "metric" in runs else [metric]
    return len(names) > 0 and all(measure(str(name)).share for name in names)


def _row(values: pd.Series, other: pd.Series | None, share: bool) -> dict[str, object]:
    here = estimate(values, share)
    row: dict[str, object] = {"n": here.n, "mean": here.mean, "low": here.low, "high": here.high}
    common = [] if other is None else [seed for seed in values.index if seed in other.index]
    differences = [] if other is None else (values[common] - other[common]).to_numpy()
    there = estimate(differences)
    row |= {"pairs": there.n, "difference": there.mean, "difference/low": there.low, "difference/high": there.high}
    return row | {"p": paired_t(differences), "p/exact": sign_flip(differences)}


def _notes(values: pd.Series, other: pd.Series | None, row: dict[str, object], doubled: int) -> Iterable[str]:
    if len(values) == 0:
        yield "no finished run has this metric"
    if len(values) == 1:
        yield "one seed: no interval"
    elif len(values) > 1 and isnan(row["low"]):  # type: ignore[arg-type]
        yield "all seeds equal: no interval"
    if doubled:
        yield f"{doubled} run{'s' if doubled > 1 else ''} with a repeated seed: averaged"
    if other is not None and len(values) > 0:
        pairs = int(row["pairs"])  # type: ignore[call-overload]
        if pairs == 0:
            yield "no seed in common with the baseline"
        elif pairs == 1:
            yield "one pair: no test"
        elif np.isnan(row["p"]):  # type: ignore[call-overload]
            yield "all differences are equal: no interval, no t-test"


def curves(metrics: pd.DataFrame, metric: str, against: str = "step", points: int = 60) -> pd.DataFrame:
    """Learning curves: the mean of a metric over seeds with its interval, per setting.

    The interval of a metric that is a share by its name (`selfplay.measures`) stays within 0 and 1.

    Args:
        metrics: the `metrics` of a sweep.
        metric: a column of `metrics`, for example "eval/accuracy".
        against: "step", or "tokens" (generated so far).
        points: number of grid points if `against` is "tokens". Each run is interpolated linearly on a common grid, over
            the range of tokens covered by all runs of the setting.

    Returns:
        `setting`, `x`, `n` (seeds with a value at `x`), `mean`, `low`, `high`.

    Raises:
        SelfplayError: the metric was not logged, or `against` is invalid.
    """
    if metric not in metrics:
        raise SelfplayError(
            f"metric is '{metric}', which was not logged; choose one of {', '.join(metrics.columns[4:])}"
        )
    if against not in ("step", "tokens"):
        raise SelfplayError(f"against is '{against}'; use 'step' or 'tokens'")
    parts = []
    is_share = measure(metric).share or metric in INDICES
    columns = list(dict.fromkeys(["run", "setting", "seed", "step", "tokens", metric]))
    for setting, part in metrics.loc[metrics[metric].notna(), columns].groupby("setting", sort=False):
        runs = [run.sort_values("step") for _, run in part.groupby("run", sort=False)]
        x = _steps(runs) if against == "step" else _tokens(runs, points)
        table = np.array([_on(run, metric, against, x) for run in runs])
        seeds = _seeds(pd.concat([run.head(1) for run in runs]))
        by_seed = pd.DataFrame(table).groupby(seeds, sort=False).mean().to_numpy(dtype=float)
        parts.append(pd.DataFrame({"setting": setting, "x": x, **_pointwise(by_seed, is_share)}))
    if not parts:
        return pd.DataFrame(columns=["setting", "x", "n", "mean", "low", "high"])
    return pd.concat(parts, ignore_index=True)


def _pointwise(table: Floats, share: bool) -> dict[str, NDArray[Any]]:
    """`estimate` of each column, as arrays by the names of its attributes; NaN are no values.

    Columns with values in the same rows are computed together.

    Args:
        table: [seeds, points].
    """
    there = ~np.isnan(table)
    found = {"n": there.sum(axis=0), **{name: np.full(table.shape[1], nan) for name in ("mean", "low", "high")}}
    patterns, of_column = np.unique(there, axis=1, return_inverse=True)
    for i, rows in enumerate(patterns.T):
        columns = of_column.reshape(-1) == i
        if rows.any():
            ends = _interval(table[rows][:, columns], share)
            for name, values in zip(("mean", "low", "high"), ends, strict=True):
                found[name][columns] = values
    return found


def _steps(runs: Sequence[pd.DataFrame]) -> Floats:
    return np.unique(np.concatenate([run["step"].to_numpy(dtype=float) for run in runs]))


def _tokens(runs: Sequence[pd.DataFrame], points: int) -> Floats:
    first, last = max(run["tokens"].iloc[0] for run in runs), min(run["tokens"].iloc[-1] for run in runs)
    return np.linspace(first, last, points) if first < last else np.array([first] if first == last else [], dtype=float)


def _on(run: pd.DataFrame, metric: str, against: str, x: Floats) -> Floats:
    at, y = run[against].to_numpy(dtype=float), run[metric].to_numpy(dtype=float)
    if against == "tokens":
        return np.asarray(np.interp(x, at, y))
    return np.asarray(pd.Series(y, index=at).reindex(x), dtype=float)
