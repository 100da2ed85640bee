"""Console output of a cross-play: standings, the payoff matrix, and a sentence on cycles."""

from collections.abc import Mapping

import numpy as np
from rich.table import Table
from rich.text import Text

from selfplay.console import say, show_table, table_box
from selfplay.theory.meta_game import Analysis, MetaGame

MATRIX_UP_TO = 12  # players


def show(meta: MetaGame, found: Analysis, nash_convs: Mapping[str, float] | None) -> None:
    """Print the players from the highest rating to the lowest, then the payoffs, equilibrium and cycles.

    Args:
        nash_convs: player -> NashConv in the full game; None if unknown.
    """
    exact = meta.intervals is None
    elo, bounds = found.ratings.elo(), found.ratings.elo_intervals()
    columns = ["Elo" if exact else "Elo [95 %]", "return", "Nash", "exploitability", *(["NashConv"] if exact else [])]
    table = _table(["#", "player", *columns])
    for place, i in enumerate(found.order, start=1):
        interval = "" if exact else f" [{_signed(bounds[i, 0], 0)}, {_signed(bounds[i, 1], 0)}]"
        nemesis = "" if found.nemeses[i] == i else f" by {found.order.index(found.nemeses[i]) + 1}"
        cells = [
            f"{_signed(elo[i], 0)}{interval}",
            _signed(found.mean_returns[i], 3),
            "-" if found.nash is None else f"{found.nash.weights[i]:.2f}",
            f"{found.exploitability[i]:.3f}{nemesis}",
        ]
        if exact:
            cells.append("-" if nash_convs is None else f"{nash_convs[meta.names[i]]:.4f}")
        table.add_row(*map(Text, [str(place), meta.names[i], *cells]))
    show_table(table)
    if len(meta.names) <= MATRIX_UP_TO:
        say(f"\nmean return of the row against the column ({_accuracy(meta)})")
        show_table(_matrix(meta, found))
    say("\n" + nash_sentence(meta, found))
    say(cycles_sentence(meta, found))


def _accuracy(meta: MetaGame) -> str:
    """Precision of the payoffs, in words."""
    if meta.intervals is None:
        return "exact"
    off = np.abs(meta.intervals - meta.payoffs[..., None])[~np.eye(len(meta.names), dtype=bool)]
    if np.isnan(off).any():
        return "no intervals: all games had the same returns"
    return f"95 % intervals of at most +/-{off.max():.3f}"


def _matrix(meta: MetaGame, found: Analysis) -> Table:
    numbers = [str(place) for place in range(1, len(found.order) + 1)]
    digits = 3 if len(numbers) <= 8 else 2
    table = _table(["#", *numbers])
    for number, i in zip(numbers, found.order, strict=True):
        table.add_row(*map(Text, [number, *(_signed(meta.payoffs[i, j], digits) for j in found.order)]))
    return table


def _signed(value: float, digits: int) -> str:
    """Format a number with its sign; values that round to 0 have none."""
    rounded = round(float(value), digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0.0:.{digits}f}"


def nash_sentence(meta: MetaGame, found: Analysis) -> str:
    """Describe the equilibrium in the column "Nash", or why there is none."""
    if found.nash is not None:
        return f"Nash: {found.nash.method.removeprefix('Nash averaging: ')}"
    return f"no Nash: pairwise payoffs do not define a game with {meta.roles} roles"


def cycles_sentence(meta: MetaGame, found: Analysis) -> str:
    """Describe how cyclic the population is, and its strongest cycle."""
    share = f"cyclic share {found.hodge.cyclic_share:.2f}"
    if found.noise_share is not None:
        share += f" (sampling noise explains about {min(found.noise_share, found.hodge.cyclic_share):.2f} of it)"
    if found.strongest is None:
        return f"{share}; no three-cycles"
    names = [meta.names[i] for i in (*found.strongest, found.strongest[0])]
    clear = "" if meta.intervals is None else f", {found.clear_cycles} with all intervals excluding 0"
    plural = "" if len(found.cycles) == 1 else "s"
    return f"{share}; {len(found.cycles)} three-cycle{plural}{clear}, the strongest: {' beats '.join(names)}"


def _table(columns: list[str]) -> Table:
    table = Table(box=table_box(), show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if name == "player" else "right", overflow="fold", no_wrap=i == 0)
    return table
