"""A sweep over several games is divided: settings are compared within a game, or on the questions of a task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from selfplay.report.configs import Config, arena
from selfplay.runs.sweep import Sweep


@dataclass(frozen=True)
class Part:
    """The runs of one arena (`configs.arena`).

    Attributes:
        title: its name; "" if there is only one.
        sweep: the runs.
    """

    title: str
    sweep: Sweep

    @property
    def prefix(self) -> str:
        """Of identifiers and file names; "" if there is only one part."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}-" if self.title else ""


def parts(sweep: Sweep, known: Mapping[str, Config]) -> list[Part]:
    """The parts of a sweep, in the order of their first runs.

    A setting whose configs cannot be read belongs to the first part.

    Args:
        known: run -> its config.
    """
    of_setting: dict[str, str] = {}
    for run, setting in zip(sweep.runs["run"], sweep.runs["setting"], strict=True):
        if known.get(str(run)):
            of_setting.setdefault(str(setting), arena(known[str(run)]))
    arenas = list(dict.fromkeys(of_setting.values()))
    if len(arenas) < 2:
        return [Part("", sweep)]
    return [Part(name, _within(sweep, name, of_setting, arenas[0])) for name in arenas]


def _within(sweep: Sweep, name: str, of_setting: Mapping[str, str], first: str) -> Sweep:
    runs, metrics = (
        table[[of_setting.get(str(setting), first) == name for setting in table["setting"]]].reset_index(drop=True)
        for table in (sweep.runs, sweep.metrics)
    )
    mine = set(runs["run"])
    transcripts = {run: path for run, path in sweep.transcripts.items() if run in mine}
    return Sweep(runs, metrics, transcripts, configs=sweep.configs)
