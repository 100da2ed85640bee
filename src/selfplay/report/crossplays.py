"""Cross-play results, read from the crossplay.json files in the folders of a report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.core import SelfplayError
from selfplay.measures import bounds, number
from selfplay.plots.figure_store import COLOURS, Album, Picture
from selfplay.plots.figures import draw_intervals, draw_matrix
from selfplay.report.comparison import Cell, Row, Table

FILE = "crossplay.json"
MOST = 24  # players in the figure of the ratings
HEADS = ["Elo", "mean return", "weight in meta-Nash", "exploitability"]
EXPLOITABILITY = (
    "Exploitability: return of the best of these players against the player, minus the player's self-play return."
)


@dataclass(frozen=True)
class CrossPlay:
    """One cross-play, as shown on the page."""

    title: str
    about: str
    standings: Table
    cycles: str
    matrix: Picture
    ratings: Picture


def files(folders: Iterable[Path]) -> list[Path]:
    """All crossplay.json files below the folders, without duplicates; those higher up in a folder come first."""
    found: dict[Path, Path] = {}
    for folder in folders:
        for path in sorted(_below(folder), key=lambda path: len(path.parts)):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name not in ("checkpoints", "population") and name[0] != ".")
        if FILE in names:
            yield Path(here) / FILE


def crossplay(path: Path, place: int, album: Album) -> CrossPlay:
    """Read a cross-play file and draw its figures.

    Args:
        place: number of the cross-play on the page, used in the names of its figures.

    Raises:
        SelfplayError: the file does not have the format of `python -m selfplay.crossplay`.
    """
    try:
        return _described(json.loads(path.read_text(encoding="utf-8")), path, place, album)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SelfplayError(
            f"{path} is not a result of cross-play ({type(error).__name__}: {error}); "
            "create it again with python -m selfplay.crossplay"
        ) from error


def _described(found: Mapping[str, Any], path: Path, place: int, album: Album) -> CrossPlay:
    names, elo = [str(name) for name in found["names"]], found["ratings"]["elo"]
    order = sorted(range(len(names)), key=lambda i: (-round(float(elo[names[i]]), 6), i))
    best = [names[i] for i in order]
    payoffs = np.array(found["payoffs"], dtype=float)[order][:, order]
    title = f"{found['game']}: {len(names)} players"
    matrix = album.keep(
        f"crossplay-{place}-payoffs",
        draw_matrix(best, payoffs, "Payoffs, best rating first", "mean return of the row"),
        f"Mean return of the row against the column. {_sentence(found['method'])}",
        f"{title}: payoffs from {number(payoffs.min(), 3, True)} to {number(payoffs.max(), 3, True)}",
    )
    return CrossPlay(
        title,
        f"{path}; runs: {', '.join(map(str, found['runs']))}; roles: {', '.join(map(str, found['roles']))}",
        Table(
            f"Sorted by rating, highest first. {_nash(found['meta_nash'])} {EXPLOITABILITY}",
            ["player", *HEADS, *(["NashConv"] if found["nash_conv"] else [])],
            [Row(name, "", _cells(found, name)) for name in best],
        ),
        _cycles(found["cycles"]),
        matrix,
        _ratings(found["ratings"], best, title, f"crossplay-{place}-ratings", album),
    )


def _ratings(ratings: Mapping[str, Any], best: Sequence[str], title: str, name: str, album: Album) -> Picture:
    elo, intervals = ratings["elo"], ratings["intervals"]
    top, some = best[:MOST], f" of the best {MOST}" if len(best) > MOST else ""
    estimates = [(elo[name], *(intervals[name] if intervals else (np.nan, np.nan))) for name in top]
    colours = [COLOURS[0]] * len(top)
    figure = draw_intervals(
        top, np.array(estimates, dtype=float), [[]] * len(top), colours, f"Ratings{some}", "Elo points, mean 0"
    )
    first, last = (f"{who} ({number(elo[who], 0, True)})" for who in (best[0], best[-1]))
    caption = f"{_sentence(ratings['method'])}{' Bars: 95 % intervals.' if intervals else ''}"
    return album.keep(name, figure, caption, f"{title}: ratings from {first} down to {last}")


def _cells(found: Mapping[str, Any], name: str) -> list[Cell]:
    intervals, worst = found["ratings"]["intervals"], found["exploitability"][name]
    low, high = intervals[name] if intervals else (np.nan, np.nan)
    cells = [
        Cell(number(found["ratings"]["elo"][name], 0, True), bounds(low, high, 0, True)),
        Cell(number(found["mean_returns"][name], 3, True)),
        Cell(number(found["meta_nash"]["weights"][name], 2) if found["meta_nash"] else "-"),
        Cell(number(worst["value"], 3), "" if worst["by"] == name else f"by {worst['by']}"),
    ]
    return cells + ([Cell(number(found["nash_conv"][name], 4))] if found["nash_conv"] else [])


def _cycles(cycles: Mapping[str, Any]) -> str:
    share = f"Cyclic share of the payoffs: {number(cycles['share'], 2)}"
    if cycles["noise_share"] is not None:
        share += f" (sampling noise explains about {number(min(cycles['noise_share'], cycles['share']), 2)} of it)"
    if not cycles["strongest"]:
        return f"{share}. There are no three-cycles."
    ring = " beats ".join(map(str, [*cycles["strongest"], cycles["strongest"][0]]))
    count = f"{cycles['three_cycles']} three-cycle{'' if cycles['three_cycles'] == 1 else 's'}"
    return f"{share}. {count}, {cycles['clear_three_cycles']} with all intervals excluding 0; the strongest: {ring}."


def _nash(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "No meta-Nash: pairwise payoffs do not define a game with more than two roles."
    return f"Weights in meta-Nash: {found['method']}."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
