"""The comparisons of settings as sentences: which is better, by how much, and whether the difference is shown."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from selfplay.measures import Measure, bounds, number, probability
from selfplay.report.comparison import ITSELF, Compared, checked_baseline, compared
from selfplay.report.configs import Config, apart, configs
from selfplay.report.parts import parts
from selfplay.report.settings import Settings
from selfplay.runs.sweep import Sweep

LEVEL = 0.05  # of significance, after Holm's correction
MOST_DIGITS = 8  # decimal places of a small difference
NOTE = (
    "Differences of the same seeds, largest first, with 95 % intervals (Student's t, not corrected); Holm p: of the "
    "paired t-test, corrected for all comparisons of the list. A difference is called better or worse only below 0.05."
)


def answers(sweep: Sweep, baseline: str | None = None) -> dict[str, list[str]]:
    """One sentence for each setting, comparing it with the baseline by the metric that was optimized.

    The numbers are those of the report's table of comparison (`selfplay.report.statistics.compare`).

    Args:
        sweep: the runs.
        baseline: full or short name of a setting; None for the first one.

    Returns:
        what is compared -> sentences, the largest difference first. Empty if there is nothing to compare.

    Raises:
        SelfplayError: the baseline is not a setting of these runs.
    """
    settings, known = Settings(sweep.runs["setting"]), configs(sweep)
    chosen = checked_baseline(sweep, settings, baseline)
    found = {}
    for part in parts(sweep, known):
        for one in compared(part.sweep, chosen):
            if lines := sentences(one, by_setting(sweep, known)):
                found[heading(one, settings, part.title)] = lines
    return found


def by_setting(sweep: Sweep, known: Mapping[str, Config]) -> dict[str, Config]:
    """Setting -> the first config of its runs that could be read."""
    found: dict[str, Config] = {}
    for run, setting in zip(sweep.runs["run"], sweep.runs["setting"], strict=True):
        if config := known.get(str(run)):
            found.setdefault(str(setting), config)
    return found


def heading(found: Compared, settings: Settings, title: str = "") -> str:
    """What is compared: the part's name if there are several, the metric, its direction, and the baseline."""
    metric = found.metric
    direction = {"better": ", higher is better", "worse": ", lower is better"}.get(metric.better[0], "")
    against = f"; baseline: {settings.short(found.baseline)} (another: --baseline SETTING)" if found.baseline else ""
    return f"{f'{title}: ' if title else ''}{metric.title} ({metric.key}){direction}{against}"


def sentences(found: Compared, known: Mapping[str, Config]) -> list[str]:
    """One sentence per setting other than the baseline, the largest difference first.

    A single sentence where a comparison would be meaningless, see `Compared.baseline`.

    Args:
        known: setting -> its config.
    """
    if not found.baseline:
        return [ITSELF] if len(found.after) > 1 else []
    others = [row for row in found.after.to_dict("records") if row["setting"] != found.baseline]
    others.sort(key=lambda row: -abs(row["difference"]) if row["pairs"] else 0.0)
    base = int(found.after.loc[found.after["setting"] == found.baseline, "n"].iloc[0])
    out = []
    for row in others:
        both = (str(row["setting"]), found.baseline)
        out.append(_sentence(row, found.metric, base, *apart(*both, *(known.get(name, {}) for name in both))))
    return out


def _sentence(row: Mapping[str, Any], metric: Measure, base: int, name: str, other: str) -> str:
    pairs, difference = int(row["pairs"]), float(row["difference"])
    if pairs == 0:
        why = "no seed in common" if row["n"] and base else "no finished run has this metric"
        return f"{name} and {other} cannot be compared: {why}."
    digits, unit = _digits(metric, difference), _unit(metric)
    signed = f"{number(difference, digits, True)}{unit}"
    interval = bounds(row["difference/low"], row["difference/high"], digits, True)
    if pairs == 1:
        return f"No difference between {name} and {other} is shown: {signed}; not enough seeds (1): no interval."
    n = f"n = {pairs} pairs"
    if isnan(row["p"]):
        return f"No difference between {name} and {other} can be tested: {signed} in each of {pairs} pairs."
    if not interval:
        return f"{name} equals {other} in each of {pairs} pairs."
    p = probability(row["p/holm"])
    if not row["p/holm"] < LEVEL:
        return f"No difference between {name} and {other} is shown: {signed} {interval}, {n}, Holm p = {p}."
    word = metric.better[0 if difference > 0 else 1]
    size = f"{number(abs(difference), digits)}{unit}"
    return f"{name} is {size} {word} than {other} {interval}, {n}, Holm p {p if p.startswith('<') else f'= {p}'}."


def _digits(metric: Measure, difference: float) -> int:
    """Those of the metric; more for a difference that would be rounded to 0."""
    digits = metric.digits
    while difference and round(difference, digits) == 0 and digits < MOST_DIGITS:
        digits += 1
    return digits


def _unit(metric: Measure) -> str:
    if metric.share:
        return " points"
    return "" if metric.unit in metric.words else f" {metric.unit}"
