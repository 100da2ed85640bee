"""What cross-play found, read from the crossplay.json files beside the runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.core import SelfplayError
from selfplay.plots.figure_store import COLOURS, Album, Picture
from selfplay.plots.figures import draw_intervals, draw_matrix
from selfplay.report.comparison import Cell
from selfplay.report.measures import bounds, number

FILE = "crossplay.json"
MOST = 24  # players in the picture of the ratings
HEADS = ["Elo", "mean return", "weight in meta-Nash", "exploitability"]
EXPLOITABILITY = "Exploitability: how much more than the player itself the best of these players earns against it."


@dataclass(frozen=True)
class Standing:
    """A player and its figures."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class CrossPlay:
    """One cross-play, as the page shows it."""

    title: str
    about: str
    caption: str
    heads: list[str]
    rows: list[Standing]
    cycles: str
    matrix: Picture
    ratings: Picture


def files(folders: Iterable[Path]) -> list[Path]:
    """Every crossplay.json below the folders, each once; of a folder, its own before those of the runs in it."""
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
    """What a file says, with its figures.

    Raises:
        SelfplayError: it is not what `python -m selfplay.crossplay` writes.
    """
    try:
        return _described(json.loads(path.read_text(encoding="utf-8")), path, place, album)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SelfplayError(
            f"{path} is not what cross-play writes ({type(error).__name__}: {error}); "
            "make it again with python -m selfplay.crossplay"
        ) from error


def _described(found: Mapping[str, Any], path: Path, place: int, album: Album) -> CrossPlay:
    names, elo = [str(name) for name in found["names"]], found["ratings"]["elo"]
    order = sorted(range(len(names)), key=lambda i: (-round(float(elo[names[i]]), 6), i))
    best = [names[i] for i in order]
    payoffs = np.array(found["payoffs"], dtype=float)[order][:, order]
    title = f"{found['game']}: {len(names)} players"
    matrix = album.keep(
        f"crossplay-{place}-payoffs",
        draw_matrix(best, payoffs, "Pay-offs, best rating first", "mean return of the row"),
        f"What the row earns against the column. {_sentence(found['method'])}",
        f"{title}: pay-offs from {number(payoffs.min(), 3, True)} to {number(payoffs.max(), 3, True)}",
    )
    return CrossPlay(
        title,
        f"{path}; runs: {', '.join(map(str, found['runs']))}; roles: {', '.join(map(str, found['roles']))}",
        f"From the highest rating to the lowest. {_nash(found['meta_nash'])} {EXPLOITABILITY}",
        [*HEADS, *(["NashConv"] if found["nash_conv"] else [])],
        [Standing(name, _cells(found, name)) for name in best],
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
    share = f"Cyclic share of the pay-offs: {number(cycles['share'], 2)}"
    if cycles["noise_share"] is not None:
        share += f", of which noise explains about {number(min(cycles['noise_share'], cycles['share']), 2)}"
    if not cycles["strongest"]:
        return f"{share}. Nobody beats somebody who beats somebody who beats them."
    ring = " beats ".join(map(str, [*cycles["strongest"], cycles["strongest"][0]]))
    count = f"{cycles['three_cycles']} three-cycle{'' if cycles['three_cycles'] == 1 else 's'}"
    return f"{share}. {count}, {cycles['clear_three_cycles']} beyond the intervals; the strongest: {ring}."


def _nash(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "No meta-Nash: with more than two roles a table of pairs is not the game."
    return f"Weights in meta-Nash: {found['method']}."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
