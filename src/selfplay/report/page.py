"""The report page: the results of runs in one self-contained HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from selfplay.core import SelfplayError
from selfplay.files import replacing
from selfplay.plots.figure_store import Album, palette
from selfplay.report import crossplays
from selfplay.report.answers import NOTE, by_setting, heading, sentences
from selfplay.report.breakdown import NOTE as BREAKDOWN_NOTE
from selfplay.report.breakdown import breakdown
from selfplay.report.comparison import checked_baseline, compared, comparison
from selfplay.report.configs import Config, configs
from selfplay.report.curve_section import GOODHART_NOTE, learning_curves, reward_against_truth
from selfplay.report.parts import Part, parts
from selfplay.report.question_section import NOTE as ASKED_NOTE
from selfplay.report.question_section import what_is_asked
from selfplay.report.run_table import run_table
from selfplay.report.settings import Settings
from selfplay.report.transcripts import Sample, sample
from selfplay.runs.sweep import Sweep

PAGE = "report.html"


def write(
    sweep: Sweep, folders: Sequence[Path], album: Album, baseline: str | None = None, refresh: float | None = None
) -> Path:
    """Save the figures in the album's folder, and write the page next to them.

    Args:
        sweep: the runs.
        folders: where the runs were read from; also searched for cross-play results.
        album: stores the figures.
        baseline: the setting to compare with; None for the first.
        refresh: seconds after which an open page reloads itself; None for a page that stays as it is.

    Raises:
        SelfplayError: the baseline is not a setting, or the folder cannot be written.
    """
    page = album.folder / PAGE
    try:
        album.folder.mkdir(parents=True, exist_ok=True)
        text = render({**contents(sweep, folders, album, baseline), "refresh": refresh})
        with replacing(page) as draft:
            draft.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        remedy = "choose another folder with --out"
        raise SelfplayError(f"{album.folder} cannot be written ({error.strerror}); {remedy}") from error
    return page


def render(content: dict[str, Any]) -> str:
    """Render the page. Every value is escaped, except figures, style, script and JSON."""
    here = files("selfplay.report")
    parts = {name: (here / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((here / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(**content, **parts, palette=palette())


def contents(sweep: Sweep, folders: Sequence[Path], album: Album, baseline: str | None = None) -> dict[str, Any]:
    """The values of the template."""
    settings, known = Settings(sweep.runs["setting"]), configs(sweep)
    chosen = checked_baseline(sweep, settings, baseline)
    found = [
        _part(part, by_setting(sweep, known), settings, chosen, sweep.turns, album) for part in parts(sweep, known)
    ]
    album.prefix = ""
    shown = sample(sweep.turns)
    plays, unread = _crossplays(folders, album)
    said = [answer for part in found for answer in part["answers"]]
    sections: list[tuple[str, str, object]] = [("answers", "Answers", said)]
    sections += [entry for part in found for entry in part["sections"]]
    sections += [
        ("runs", "Runs", True),
        ("transcripts", "Transcripts", shown.shown),
        ("crossplay", "Cross-play", plays),
    ]
    return {
        "title": f"Self-play report: {', '.join(folder.resolve().name for folder in folders)}",
        "read": _read(sweep, folders, settings),
        "problems": [*_problems(sweep), *sweep.notes, *map(_left_out, sweep.unread.items()), *unread],
        "sections": [(name, title) for name, title, there in sections if there],
        "settings": settings.legend(),
        "answers": {"lists": said, "note": NOTE},
        "parts": found,
        "runs": run_table(sweep, known, settings),
        "transcripts": _transcripts(shown),
        "crossplays": plays,
    }


def _part(
    part: Part,
    known: Mapping[str, Config],
    settings: Settings,
    baseline: str | None,
    turns: pd.DataFrame,
    album: Album,
) -> dict[str, Any]:
    """The sections of one part; `sections` has identifier, title and whether there is anything of each."""
    sweep, album.prefix = part.sweep, part.prefix
    mine = turns[turns["run"].isin(set(sweep.runs["run"]))] if part.title else turns
    compared_by = compared(sweep, baseline)
    pairs, note = learning_curves(sweep, settings, album)
    gaps = reward_against_truth(sweep, settings, album)
    lines, stacks = what_is_asked(mine, settings, album)
    groups = breakdown(sweep, settings, album)
    sections = [
        ("comparison", "Comparison", True),
        ("accuracy", "Accuracy by kind", groups),
        ("curves", "Learning curves", pairs),
        ("goodhart", "Reward against truth", gaps),
        ("questions", "What is asked", lines or stacks),
    ]
    lists = [(heading(one, settings, part.title), sentences(one, known)) for one in compared_by]
    linked = [(part.prefix + name, title, there) for name, title, there in sections]
    here = [entry for entry in settings.legend() if entry["setting"] in set(sweep.runs["setting"])]
    return {
        "title": part.title,
        "prefix": part.prefix,
        "sections": [(f"{part.prefix}part", part.title, True)] if part.title else linked,
        "settings": here,
        "answers": [(title, some) for title, some in lists if some],
        "comparison": [comparison(one, settings, baseline, album) for one in compared_by],
        "accuracy": {"groups": groups, "note": BREAKDOWN_NOTE},
        "curves": {"pairs": pairs, "note": note},
        "goodhart": {"pictures": gaps, "note": GOODHART_NOTE},
        "questions": {"pictures": lines, "families": stacks, "note": ASKED_NOTE},
    }


def _crossplays(folders: Sequence[Path], album: Album) -> tuple[list[crossplays.CrossPlay], list[str]]:
    """The cross-plays, and error messages for those that could not be read."""
    plays, unread = [], []
    for place, path in enumerate(crossplays.files(folders), start=1):
        try:
            plays.append(crossplays.crossplay(path, place, album))
        except SelfplayError as error:
            unread.append(str(error))
    return plays, unread


def _read(sweep: Sweep, folders: Sequence[Path], settings: Settings) -> dict[str, Any]:
    runs = sweep.runs
    counts = ", ".join(f"{count} {status}" for status, count in runs["status"].value_counts().items())
    seeds = runs["seed"].dropna().nunique()
    sentence = (
        f"{_many(len(runs), 'run')} ({counts}) of {_many(len(settings.all), 'setting')} and {_many(seeds, 'seed')}; "
        f"{_many(int(runs['steps'].sum()), 'step')}, {_many(int(runs['tokens'].sum()), 'generated token')}, "
        f"{_duration(float(runs['seconds'].sum()))} of training."
    )
    if settings.shared:
        sentence += f" All share {' '.join(settings.shared)}."
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return {"sentence": sentence, "when": when, "folders": list(map(str, folders)), "versions": _versions(sweep)}


def _versions(sweep: Sweep) -> str:
    """The versions recorded by the runs, with the number of runs of each if they differ."""
    found = Counter(_version(sweep.configs.get(str(run), {}).get("versions")) for run in sweep.runs["run"])
    if len(found) == 1:
        return f"Made with {next(iter(found))}."
    return "Made with " + "; ".join(f"{made} ({_many(n, 'run')})" for made, n in found.most_common()) + "."


def _version(versions: object) -> str:
    if not isinstance(versions, dict) or not versions:
        return "versions unknown"
    return ", ".join(f"{name!s} {str(value)[:12] if value else 'unknown'}" for name, value in versions.items())


def _left_out(unread: tuple[str, str]) -> str:
    run, reason = unread
    return f"The transcript of run {run} is left out: {reason}"


def _problems(sweep: Sweep) -> list[str]:
    lines = []
    for row in sweep.problems.to_dict("records"):
        seed = "unknown" if str(row["seed"]) == "<NA>" else row["seed"]
        lines.append(f"Run {row['run']} is {row['status']} ({row['setting']}, seed {seed}): {row['reason']}")
    return lines


def _transcripts(chosen: Sample) -> dict[str, Any]:
    left = chosen.whole - chosen.shown
    note = f"{_many(chosen.shown, 'turn')} of {chosen.whole:,}"
    note += (
        f": whole episodes of the first, the last and some other steps; {left:,} turns were left out to limit the size."
        if left
        else "."
    )
    kept = []
    for run, (shown, whole, steps) in chosen.kept.items():
        kept.append(f"Run {run}: {shown:,} of {_many(whole, 'turn')}; steps {', '.join(map(str, steps)) or 'none'}")
    return {"json": chosen.json() if chosen.shown else "", "note": note, "kept": kept}


def _duration(seconds: float) -> str:
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.0f} seconds"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
