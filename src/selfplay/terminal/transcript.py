"""What was played, as the lines of a run's episodes.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from selfplay.core import SelfplayError, Turn
from selfplay.files import append, to_disk
from selfplay.runs.folder import described

EPISODES, UNFINISHED = "episodes.jsonl", "unfinished.jsonl"


class Transcript:
    """Appends episodes to files in a folder, which is created with the first of them.

    Args:
        folder: where `episodes.jsonl` is written, in the format of a run's, so that what reads the one reads the other;
            and `unfinished.jsonl` for an episode that was left, whose turns have no payoff.

    Raises:
        SelfplayError: the folder already holds one of these files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (EPISODES, UNFINISHED):
            if (folder / name).exists():
                raise SelfplayError(f"{folder / name} already exists; choose another folder with --out")
        self.written: list[Path] = []

    def add(self, episode: int, turns: Sequence[Turn], finished: bool = True) -> None:
        """Append the turns of an episode.

        Raises:
            DiskError: they cannot be written.
        """
        if not turns:
            return
        with to_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / (EPISODES if finished else UNFINISHED)
        unpaid = {"payoff": None}
        append(
            path,
            [
                {"step": 0, "episode": episode, **described(turn)}
                | (unpaid if math.isnan(turn.payoff) else {})
                | {"advantage": None}
                for turn in turns
            ],
        )
        if path not in self.written:
            self.written.append(path)
