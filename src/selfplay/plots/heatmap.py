"""The picture of a meta-game: who earns what against whom."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfplay.files import replacing
from selfplay.theory.zero_sum import Array

NUMBERS_UP_TO = 12  # players, for whom the cells hold their figures
LONGEST = 40  # characters of a label


def draw_heatmap(names: Sequence[str], payoffs: Array, path: Path, title: str) -> None:
    """Draw pay-offs as a PNG at `path`: blue where the row earns less than 0 against the column, red where more.

    Args:
        names: [n] of the rows and columns, from the top and from the left.
        payoffs: [n, n] what i earns against j.
    """
    from matplotlib.figure import Figure  # slow to import

    n = len(names)
    cell = 0.62 if n <= NUMBERS_UP_TO else max(0.16, 7.0 / n)
    labels = [name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}" for name in names]
    margin = 1.0 + 0.075 * max(map(len, labels))
    figure = Figure(figsize=(n * cell + margin + 1.6, n * cell + margin + 0.6), layout="constrained")
    axes = figure.subplots()
    reach = float(np.abs(payoffs).max()) or 1.0
    image = axes.imshow(payoffs, cmap="RdBu_r", vmin=-reach, vmax=reach)
    size = 9 if n <= 30 else 6
    axes.set_xticks(range(n), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(n), labels, fontsize=size)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("against")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="mean return of the row", shrink=0.8)
    for i, j in np.ndindex(n, n) if n <= NUMBERS_UP_TO else ():
        colour = "white" if abs(payoffs[i, j]) > 0.7 * reach else "black"
        axes.text(
            j, i, f"{round(float(payoffs[i, j]), 2) + 0.0:.2f}", ha="center", va="center", fontsize=8, color=colour
        )
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
