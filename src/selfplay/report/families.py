"""A family of paired comparisons: differences with intervals, and p-values corrected by Holm's method."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from numpy.typing import ArrayLike

from selfplay.measures import bounds, number, probability
from selfplay.report.statistics import estimate, holm, paired_t, sign_flip

NOTE = (
    "Differences of the same seeds, mean and 95 % Student's t interval; p: paired t-test; Holm: p corrected for this "
    "family of {count} comparisons; sign flips: the exact permutation test on the same pairs, uncorrected (never below "
    "2 / 2ⁿ of n pairs)."
)


def family(differences: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """One row per comparison: `comparison`, `pairs`, `difference`, `low`, `high`, `p`, `p/holm`, `p/exact`.

    Args:
        differences: name of the comparison -> one paired difference per seed. Holm's method (1979) corrects for all of
            them.
    """
    rows = []
    for name, values in differences.items():
        found = estimate(values)
        row = {"comparison": name, "pairs": found.n, "difference": found.mean, "low": found.low, "high": found.high}
        rows.append(row | {"p": paired_t(values), "p/exact": sign_flip(values)})
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p/holm", holm(table["p"]))
    return table


def markdown(differences: Mapping[str, ArrayLike], unit: str = "points", scale: float = 100.0, digits: int = 1) -> str:
    """A family as a Markdown table, followed by a note on its columns.

    Args:
        differences: see `family`.
        unit: of the displayed differences.
        scale: factor from the differences to this unit.
        digits: decimal places.
    """
    table = family(differences)
    lines = [f"| comparison | difference, {unit} | pairs | p | p, Holm | sign flips |", "| --- |" + " ---: |" * 5]
    for row in table.to_dict("records"):
        mean, low, high = (scale * row[name] for name in ("difference", "low", "high"))
        shown = f"{number(mean, digits, True)} {bounds(low, high, digits, True)}".strip()
        tests = (probability(row[name]) for name in ("p", "p/holm", "p/exact"))
        lines.append("| " + " | ".join([row["comparison"], shown, str(row["pairs"]), *tests]) + " |")
    count = int(table["p"].notna().sum())
    note = NOTE.format(count=count) if count > 1 else NOTE.format(count=1).replace("comparisons", "comparison")
    return "\n".join([*lines, "", note])
