"""When a run falls, when an alarm comes, and which alarm the training seeds give, as the README's plan defines."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

TRAINING = (0, 1, 2, 3)  # seeds
POINTS, OVER = 0.05, 3  # a fall: of the mean of so many evaluations, by so much
LEAST = 5  # steps between an alarm and a fall that it announces
FALSE = 0.2  # largest share of false alarms on the training seeds
WINDOWS = (5, 10, 15)
LANDMARK, RECENT = 20, 10  # step, and steps whose mean tells, of the ROC-AUC
PATIENCE = 3  # evaluations, of the control that watches accuracy
MEASURES = {
    "challenger/invalid": "invalid questions, share",
    "frac_reward_zero_std": "zero-variance groups, share",
    "challenger/entropy": "Challenger's entropy",
    "solver/entropy": "Solver's entropy",
    "challenger/kl": "Challenger's KL from the reference",
    "solver/kl": "Solver's KL from the reference",
    "challenger/distinct": "distinct questions, share",
    "solver/distinct": "distinct answers, share",
    "challenger/length": "length of the questions",
    "solver/reward": "reward of the Solver",
    "solver/truth": "right answers in training, share",
    "grad_norm": "gradient norm",
    "gap": "reward-truth gap",
    "level_4": "questions of level 4, share",
    "self_bleu": "self-BLEU of the questions",
    "distinct_2": "distinct bigrams of the questions",
    "solver/quality": "quality self-reward (LSP only)",
}
STOPPABLE = [name for name in MEASURES if "/" in name or name in ("frac_reward_zero_std", "grad_norm")]
Runs = Mapping[tuple[str, int], pd.DataFrame]  # setting and seed -> its lines, by step


@dataclass(frozen=True)
class Alarm:
    """The mean of a measure over the last `window` steps is above (sign 1) or below (−1) a limit."""

    measure: str
    sign: int
    window: int
    limit: float

    def step(self, run: pd.DataFrame) -> float:
        """The first step at which it is; infinite if there is none."""
        over = self.sign * means(run, self.measure, self.window) > self.sign * self.limit
        return float(over.idxmax()) if over.any() else np.inf

    def __str__(self) -> str:
        return f"{'>' if self.sign > 0 else '<'} {self.limit:g}, {self.window} steps"


def means(run: pd.DataFrame, measure: str, window: int) -> pd.Series:
    """Step -> the measure over the last `window` steps, from the first with so many on."""
    if f"{measure}_{window}" in run:
        return run[f"{measure}_{window}"].dropna()
    return run.loc[1:, measure].rolling(window).mean().dropna().round(9)  # which rounds off its sums' errors


def fall(accuracy: pd.Series) -> float:
    """The step of a run's fall; infinite if it does not end fallen."""
    mean = accuracy.dropna().rolling(OVER).mean().dropna()
    fallen = mean.cummax() - mean > POINTS - 1e-9
    if not fallen.iloc[-1]:
        return np.inf
    risen = fallen.index[~fallen]
    return float(fallen.index[fallen.index > risen[-1]][0])


def leads(alarm: Alarm, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Of the runs that fall: steps from the alarm to the fall (−inf without one). Of the others: whether it came."""
    falls = {key: fall(run["accuracy"]) for key, run in runs.items()}
    steps = {key: alarm.step(run) for key, run in runs.items()}
    lead = [falls[key] - steps[key] for key in runs if np.isfinite(falls[key])]
    return np.array(lead), np.array([np.isfinite(steps[key]) for key in runs if np.isinf(falls[key])])


def merit(alarm: Alarm, runs: Runs) -> tuple[float, float, float]:
    """What a better alarm has more of: share of falls detected, minus the share of false ones, median lead time."""
    lead, false = leads(alarm, runs)
    found = lead[lead >= LEAST]
    return float(np.mean(lead >= LEAST)), -float(false.mean()), float(np.median(found)) if len(found) else 0.0


def chosen(measure: str, runs: Runs) -> Alarm:
    """The best alarm of a measure with at most FALSE false alarms among these runs."""
    logged = {key: run for key, run in runs.items() if len(means(run, measure, max(WINDOWS)))}
    best: tuple[tuple[float, float, float], Alarm] | None = None
    for sign, window in product((1, -1), WINDOWS):
        extremes = set()
        for run in logged.values():
            before = means(run, measure, window).loc[: fall(run["accuracy"]) - LEAST]
            extremes |= {before.max() if sign > 0 else before.min()} if len(before) else set()
        ends = sorted(extremes)
        for low, high in pairwise(ends):
            alarm = Alarm(measure, sign, window, float(f"{(low + high) / 2:.3g}"))
            found = merit(alarm, logged)
            if -found[1] <= FALSE and (best is None or found > best[0]):
                best = found, alarm
    if best is None:
        raise SystemExit(f"no limit of {measure} has at most {FALSE:.0%} false alarms")
    return best[1]


def auc(measure: str, runs: Runs, within: bool = False) -> tuple[float, float, int]:
    """ROC-AUC at the landmark for a later fall (high values announce it), p of Mann and Whitney's test, pairs."""
    rows = []
    for (setting, _), run in runs.items():
        values = means(run, measure, RECENT)
        when = fall(run["accuracy"])
        if when > LANDMARK and LANDMARK in values.index:
            rows.append((setting, np.isfinite(when), values[LANDMARK]))
    table = pd.DataFrame(rows, columns=["setting", "falls", "value"])
    high, low = table[table["falls"]], table[~table["falls"]]
    pairs = high.merge(low, on="setting") if within else high.merge(low, how="cross")
    wins = (pairs["value_x"] > pairs["value_y"]) + 0.5 * (pairs["value_x"] == pairs["value_y"])
    p = mannwhitneyu(high["value"], low["value"]).pvalue if len(high) and len(low) else np.nan
    return float(wins.mean()), float(p), len(pairs)


def patient(run: pd.DataFrame, by: str) -> int:
    """The step with the best `by` when that figure has not improved for PATIENCE evaluations, or at the end."""
    values = run[by].dropna()
    for place in range(len(values)):
        best = values.iloc[: place + 1].idxmax()
        if (values.index[: place + 1] > best).sum() >= PATIENCE:
            return int(best)
    return int(values.idxmax())


def at(run: pd.DataFrame, step: float, of: str = "accuracy") -> float:
    """The last evaluation up to a step."""
    return float(run[of].dropna().loc[:step].iloc[-1])


def logging(measure: str, runs: Runs) -> Runs:
    """The runs that log a measure."""
    return {key: run for key, run in runs.items() if len(means(run, measure, max(WINDOWS)))}
